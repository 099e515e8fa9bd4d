#!/bin/sh
# Makes the root file system of the container image: a program, the libraries that it is linked to, who runs it, and whom
# TLS trusts. No shell, no package manager, nothing else.
#
#   rootfs.sh PROGRAM FOLDER
set -eu
program=$1 root=$2

install -D -m 755 "$program" "$root/usr/local/bin/fanfare"

# The loader and the libraries, under the paths by which the program asks for them. What the kernel brings has none.
ldd "$program" | sed -n 's,^[^/]*\(/[^ ]*\).*$,\1,p' | while read -r library; do
    install -D -m 755 "$library" "$root$library"
done

# Names of hosts are looked up by libc itself: in files, then by DNS.
mkdir -p "$root/etc"
echo 'hosts: files dns' > "$root/etc/nsswitch.conf"
echo 'fanfare:x:65532:65532::/:/none' > "$root/etc/passwd"
echo 'fanfare:x:65532:' > "$root/etc/group"

