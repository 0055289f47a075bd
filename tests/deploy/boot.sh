#!/bin/sh
# Boots systemd in a container of its own over this machine's files, which it does not change: `boot.sh FOLDER`. The files
# in FOLDER/files are put over them, and the only unit that is started is voiceclone-events.service, beside what systemd
# itself needs. The network is this machine's. FOLDER/pid gets the process id of that systemd. Needs root. Ends with
# SIGTERM.
set -eu

folder=$1
group=$(awk '$3 == "cgroup2" {print $2; exit}' /proc/mounts)/voiceclone-events-$$
mkdir "$group" "$folder/layer"
child=
# shellcheck disable=SC2317 # the trap calls it
end() {
    [ -z "$child" ] || kill -s KILL "$child" 2>/dev/null || true
    wait
    echo $$ >"${group%/*}/cgroup.procs"
    # The processes of the container end a moment after its first.
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        if find "$group" -depth -type d -exec rmdir {} + 2>/dev/null; then break; fi
        sleep 0.2
    done
}
trap end EXIT
trap 'exit 0' TERM INT

echo $$ >"$group/cgroup.procs"
unshare --mount --pid --uts --ipc --cgroup --fork --kill-child --propagation private /bin/sh -eu -c '
    folder=$1
    layer=$folder/layer
    mount -t tmpfs tmpfs "$layer"
    mkdir "$layer/upper" "$layer/work" "$layer/root"
    mount -t overlay overlay -o "lowerdir=/,upperdir=$layer/upper,workdir=$layer/work" "$layer/root"
    root=$layer/root
    mount -t proc proc "$root/proc"
    mount -t sysfs -o ro sysfs "$root/sys"
    mount -t tmpfs tmpfs "$root/sys/fs/cgroup"
    mount -t cgroup2 cgroup2 "$root/sys/fs/cgroup"
    for name in run tmp dev; do mount -t tmpfs tmpfs "$root/$name"; done
    for name in null zero full random urandom tty; do
        touch "$root/dev/$name"
        mount --bind "/dev/$name" "$root/dev/$name"
    done
    mkdir "$root/dev/shm" "$root/dev/pts"
    ln -s /proc/self/fd "$root/dev/fd"
    ln -s pts/ptmx "$root/dev/ptmx"
    mount -t devpts -o newinstance,ptmxmode=0666 devpts "$root/dev/pts"
    mount -t tmpfs tmpfs "$root/dev/shm"

    units=$root/etc/systemd/system
    rm -rf "$units"/*.wants "$units/default.target"
    for unit in systemd-udevd systemd-udev-trigger systemd-modules-load systemd-sysctl systemd-timesyncd; do
        ln -sf /dev/null "$units/$unit.service"
    done
    printf "[Unit]\nWants=basic.target voiceclone-events.service\n" >"$units/trial.target"
    cp -a "$folder/files/." "$root"
    mkdir -p "$root/old"
    cd "$root"
    pivot_root . old
    umount -l /old
    exec env -i container=other PATH=/usr/sbin:/usr/bin:/sbin:/bin \
        /lib/systemd/systemd --system --unit=trial.target --log-target=journal --show-status=no
' boot "$folder" &
child=$!
until pid=$(cat "/proc/$child/task/$child/children" 2>/dev/null) && [ "$pid" ]; do sleep 0.1; done
echo "${pid% }" >"$folder/pid.new"
mv "$folder/pid.new" "$folder/pid"
wait "$child"
