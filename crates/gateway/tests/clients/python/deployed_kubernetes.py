"""The manifests of deploy/kubernetes, which no test here can run: checked against Kubernetes' own schemas, then for what
has to fit together, and with a gateway, which is asked what the probes would ask."""

import pathlib
import re
import tempfile

from deployed import DEPLOY, documents, limit, metrics, package_program, run
from story import ADMIN, expect, status, tell

FOLDER = DEPLOY / "kubernetes"

# Brought by somebody else: there is no schema.
FOREIGN = ["ServiceMonitor"]


def choices(text):
    """The text as it is, and with each of its choices."""
    return [text, *(text.replace(f"#{choice}#", "") for choice in set(re.findall(r"^ *#(\w+)#", text, re.MULTILINE)))]


def resources(pattern):
    return {(doc["kind"], doc["metadata"]["name"]): doc for path in FOLDER.glob(pattern) for doc in documents(path)}


async def schemas():
    count = 0
    with tempfile.TemporaryDirectory() as folder:
        for path in FOLDER.rglob("*.yaml"):
            if any(doc["kind"] in FOREIGN for doc in documents(path)):
                continue
            for text in choices(path.read_text()):
                count += 1
                file = pathlib.Path(folder, f"{count}-{path.name}")
                file.write_text(text)
                run([package_program("kubernetes-validate"), "--strict", str(file)])
    assert count >= 8, "the manifests are not where they were"


async def fit():
    base, optional = resources("*.yaml"), resources("optional/*.yaml")
    deployment = base["Deployment", "fanfare"]
    template = deployment["spec"]["template"]
    pod, labels = template["spec"], template["metadata"]["labels"]
    [container] = pod["containers"]

    # Whoever selects pods selects these, and they stay in one namespace, which `-n` says.
    for (kind, name), doc in (base | optional).items():
        assert "namespace" not in doc["metadata"], f"{kind} {name} says where"
        spec = doc.get("spec", {})
        selector = {"Service": spec.get("selector"), "NetworkPolicy": spec.get("podSelector", {}).get("matchLabels")}
        selector = selector.get(kind, spec.get("selector", {}).get("matchLabels") if kind != "ServiceMonitor" else None)
        if kind in ("Service", "NetworkPolicy", "Deployment", "PodDisruptionBudget"):
            assert selector and selector.items() <= labels.items(), f"{kind} {name} selects {selector}"
    for spread in pod["topologySpreadConstraints"]:
        expect("what is spread", spread["labelSelector"]["matchLabels"], labels)

    # Ports go by name.
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    for (kind, name), doc in (base | optional).items():
        if kind == "Service":
            assert all(port["targetPort"] in ports for port in doc["spec"]["ports"]), name
    policy = base["NetworkPolicy", "fanfare"]["spec"]
    expect("the policy's ports", {port["port"] for rule in policy["ingress"] for port in rule["ports"]}, set(ports))
    expect("whom it calls", (policy["policyTypes"], policy["egress"]), (["Ingress", "Egress"], None))
    environment = {variable["name"]: variable.get("value") for variable in container["env"]}
    expect("where it listens", environment["FANFARE_LISTEN"], f"0.0.0.0:{ports['http']}")
    expect("where operators are", environment["FANFARE_ADMIN"], f"0.0.0.0:{ports['admin']}")

    # What the probes ask is there.
    for probe in ["livenessProbe", "readinessProbe"]:
        asked = container[probe]["httpGet"]
        expect(f"the port of the {probe}", asked["port"], "admin")
        expect(f"the answer to the {probe}", status(ADMIN + asked["path"]), 200)

    # It gets to its end, and is not alone at fault before.
    pre_stop = container.get("lifecycle", {}).get("preStop", {}).get("sleep", {}).get("seconds", 0)
    assert pod["terminationGracePeriodSeconds"] > limit("drain_timeout") + pre_stop, "a drain would be cut off"
    readiness = container["readinessProbe"]
    assert readiness["periodSeconds"] * readiness["failureThreshold"] < limit("drain_grace"), "seen too late"
    strategy = deployment["spec"]["strategy"]["rollingUpdate"]
    expect("how it is replaced", strategy, {"maxSurge": 1, "maxUnavailable": 0})

    # It may nothing.
    expect("whether it is root", (pod["securityContext"]["runAsNonRoot"], pod["securityContext"]["runAsUser"] > 0), (True, True))
    expect("its token", pod["automountServiceAccountToken"], False)
    expect("its calls", pod["securityContext"]["seccompProfile"], {"type": "RuntimeDefault"})
    allowed = container["securityContext"]
    expect("its capabilities", allowed["capabilities"], {"drop": ["ALL"]})
    expect("its privileges", (allowed["allowPrivilegeEscalation"], allowed["privileged"]), (False, False))
    expect("its files", allowed["readOnlyRootFilesystem"], True)
    assert re.fullmatch(r"[\w./-]+:\d+\.\d+\.\d+", container["image"]), f"any {container['image']}"
    resources_ = container["resources"]
    expect("its memory", resources_["limits"], {"memory": resources_["requests"]["memory"]})

    # What is mounted is there.
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    expect("what is mounted", {mount["name"] for mount in container["volumeMounts"]}, set(volumes))
    assert all(mount["readOnly"] for mount in container["volumeMounts"])
    config = base["ConfigMap", volumes["config"]["configMap"]["name"]]
    [mounted] = [mount["mountPath"] for mount in container["volumeMounts"] if mount["name"] == "config"]
    expect("its configuration", container["args"], ["serve", "--config", f"{mounted}/{next(iter(config['data']))}"])
    assert ("Secret", volumes["secrets"]["secret"]["secretName"]) in optional

    # What scales it, and what watches it.
    scaler = optional["HorizontalPodAutoscaler", "fanfare"]["spec"]
    expect("what is scaled", scaler["scaleTargetRef"]["name"], "fanfare")
    [pods] = [metric["pods"] for metric in scaler["metrics"] if metric["type"] == "Pods"]
    assert pods["metric"]["name"] in metrics(), f"there is no metric {pods['metric']['name']}"
    expect("the share", int(pods["target"]["averageValue"]), limit("connections") * 0.65)
    monitor = optional["ServiceMonitor", "fanfare"]["spec"]
    admin = base["Service", "fanfare-admin"]
    assert monitor["selector"]["matchLabels"].items() <= admin["metadata"]["labels"].items()
    assert monitor["endpoints"][0]["port"] in [port["name"] for port in admin["spec"]["ports"]]
    expect("what it asks", status(ADMIN + monitor["endpoints"][0]["path"]), 200)


async def story():
    await schemas()
    await fit()


tell(story)
