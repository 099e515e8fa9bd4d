# Sourced by the `install` of a peer that comes from Debian: fetches packages beside the system, never into it.
#
# Nothing is configured, no service is started, no file outside $root is written.

here=$(cd "$(dirname "$0")" && pwd)
name=$(basename "$here")
root=${PEERS_DIR:-${CARGO_TARGET_DIR:-$here/../../../target}/peers}/$name
mkdir -p "$root"
root=$(cd "$root" && pwd)

# One line why the peer can't be had here; the exit code says that this is no failure.
unavailable() {
    echo "$name: $*" >&2
    exit 77
}

# Unpacks the named packages, and what they need and this system doesn't have, into $root/system: debian PACKAGE...
# $root/versions has one line per package: its name and its version.
debian() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || unavailable "comes as a Debian package, and there is no apt here"
    archives=$root/archives
    rm -rf "$root/system" "$root/system.partial" "$archives"
    mkdir -p "$root/system.partial" "$archives/partial"
    apt-get install -q -y --download-only --reinstall --no-install-recommends \
        -o Debug::NoLocking=1 -o APT::Sandbox::User=root -o Dir::Cache::archives="$archives" "$@" >"$archives/log" 2>&1 ||
        unavailable "apt-get has no $* for this release ($(grep -m1 '^E:' "$archives/log" || tail -n1 "$archives/log")); after apt-get update?"
    for package in "$archives"/*.deb; do
        dpkg -x "$package" "$root/system.partial"
        dpkg-deb -f "$package" Package Version | paste -sd' ' | sed 's/Package: //; s/Version: //'
    done >"$root/versions"
    rm -rf "$archives"
    mv "$root/system.partial" "$root/system"
}
