//! What `deploy/` has that no test runs: each file is checked by the program that reads it, or by that program's linter, and
//! for what has to fit together.
//!
//! | files | checked by |
//! |---|---|
//! | `Dockerfile`, `rootfs.sh` | hadolint; the image's files are made, and a gateway runs in them |
//! | `compose.yaml` | `docker compose config` |
//! | `kubernetes/` | Kubernetes' own schemas |
//! | `systemd/` | `systemd-analyze verify`, and `security` with a bound |
//! | `sysctl/` | the kernel that runs the tests |
//! | `haproxy/`, `nginx/`, `envoy/` | `haproxy -c`, `nginx -t`, `envoy --mode validate`, in all variants; see also [`fronts`](crate::fronts) |
//! | `prometheus/` | promtool |

use libtest_mimic::{Failed, Trial};

use crate::script::Script;
use crate::story;
use crate::support::Gateway;
use crate::tools::Tool;

pub(crate) fn stories() -> Vec<Trial> {
    use Tool::{Curl, HaProxy, Nginx, OpenSsl, Promtool, Python, SystemdAnalyze, Unshare};
    const CONTAINERS: &str = "python/deployed_containers.py";
    const HOST: &str = "python/deployed_host.py";
    const FRONTED: &str = "python/fronted.py";
    const KUBERNETES: &str = "python/deployed_kubernetes.py";
    const PATH: &str = "python/deployed_path.py";
    vec![
        checked("deployed::the_dockerfile_is_sound", &[Python], CONTAINERS, "dockerfile"),
        checked("deployed::the_image_serves_from_its_files", &[Python, Unshare], CONTAINERS, "image"),
        checked("deployed::compose_is_confined_and_whole", &[Python], CONTAINERS, "compose"),
        checked("deployed::configurations_are_good", &[Python], CONTAINERS, "configurations"),
        checked("deployed::the_unit_is_confined", &[Python, SystemdAnalyze], HOST, "systemd"),
        checked("deployed::kernel_settings_exist_and_have_reasons", &[Python], HOST, "sysctl"),
        checked("deployed::haproxy_takes_every_choice", &[Python, HaProxy, OpenSsl], HOST, "haproxy"),
        checked("deployed::nginx_takes_every_choice", &[Python, Nginx, OpenSsl], HOST, "nginx"),
        checked("deployed::envoy_takes_every_choice", &[Python, OpenSsl], HOST, "envoy"),
        checked("deployed::prometheus_takes_its_configuration", &[Python, Promtool], HOST, "prometheus"),
        checked("deployed::haproxy_reaches_gateways_by_tls", &[Python, OpenSsl, HaProxy], FRONTED, "tls"),
        checked(
            "deployed::gateways_are_told_by_proxy_protocol",
            &[Python, OpenSsl, HaProxy],
            FRONTED,
            "proxied",
        ),
        checked("deployed::manifests_are_sound_and_fit", &[Python], KUBERNETES, "kubernetes"),
        checked(
            "deployed::the_path_of_the_document_leads_there",
            &[Python, OpenSsl, Curl, HaProxy],
            PATH,
            "path",
        ),
    ]
}

/// One of a script's stories. Those that ask a gateway find one.
fn checked(name: &'static str, tools: &'static [Tool], script: &'static str, part: &'static str) -> Trial {
    story(name, tools, move || -> Result<(), Failed> {
        Script::of(&Gateway::start(&[]), script, tools)?.told_as(part).run()
    })
}
