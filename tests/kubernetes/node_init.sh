#!/usr/bin/env bash
# The first process of the node, alone in new network, mount and process namespaces. All that the cluster mounts,
# links and starts lives in them and ends with this process, however it ends.
# Arguments: state folder, folder of the programs, control group, address of the node, range of the services.
set -euo pipefail
state=$1 programs=$2 group=$3 node_ip=$4 services=$5

# One for each controller in version 1, a single one in version 2.
hierarchies=(/sys/fs/cgroup)
[ -e /sys/fs/cgroup/cgroup.controllers ] || hierarchies=(/sys/fs/cgroup/*/)

join() { # group below the root of each hierarchy
    local hierarchy inherited
    for hierarchy in "${hierarchies[@]}"; do
        mkdir -p "$hierarchy/$1"
        # In version 1 a new group has neither processors nor memory, and takes no process.
        for inherited in cpuset.cpus cpuset.mems; do
            [ ! -e "$hierarchy/$inherited" ] || cat "$hierarchy/$inherited" >"$hierarchy/$1/$inherited"
        done
        echo 0 >"$hierarchy/$1/cgroup.procs"
    done
}

# All containers go below one group, which the node takes for the root: where kubelet does not manage groups,
# containerd puts them beside those of every other cluster of this machine.
if [ "${6:-}" != grouped ]; then
    join "$group"
    exec unshare --cgroup bash "$0" "$@" grouped
fi
# The address is on a bridge without ports (not every kernel has dummy links). There is no way out: everything but
# pods and services is unreachable, and at once. Services need a route, since a packet is routed before kube-proxy's
# rules give it another destination.
ip link set lo up
ip link add node0 type bridge
ip address add "$node_ip/24" dev node0
ip link set node0 up
ip route add "$services" dev node0
ip route add unreachable default
echo 1 >/proc/sys/net/ipv4/ip_forward

# Others' network namespaces must not be held by our copy of their mounts.
umount --lazy --recursive /run/netns 2>/dev/null || true
# Sockets, network namespaces of pods and container state; then the folders by names that do not depend on the
# clone, since the length of a socket's path is limited.
mount -t tmpfs tmpfs /run
mkdir -p /run/node /run/programs /run/pids /run/sysctl /run/netns /run/groups
mount --bind "$state" /run/node
mount --bind "$programs" /run/programs
# Our group in place of the root, and the real one out of sight: programs look for it in the table of mounts.
mount --bind /run/groups /run/groups
for hierarchy in "${hierarchies[@]}"; do
    path=/run/groups${hierarchy#/sys/fs/cgroup}
    mkdir -p "$path"
    mount --bind "$hierarchy/$group" "$path"
done
umount --lazy --recursive /sys/fs/cgroup
mount --move /run/groups /sys/fs/cgroup
# Version 2 wants processes in leaves only.
join node
# Kubelet, containerd and the network plugins have paths below /var that cannot all be set.
mkdir -p /run/node/var/lib /run/node/var/log /run/node/var/tmp
ln -sfn /run /run/node/var/run
mount --bind /run/node/var /var

# Kubelet sets these for the whole machine; it gets files with the values that it wants instead.
for entry in kernel/panic=10 kernel/panic_on_oops=1 vm/overcommit_memory=1 vm/panic_on_oom=0 \
    kernel/keys/root_maxkeys=1000000 kernel/keys/root_maxbytes=25000000; do
    file=${entry%=*}
    echo "${entry#*=}" >"/run/sysctl/${file//\//.}"
    mount --bind "/run/sysctl/${file//\//.}" "/proc/sys/$file"
done

touch /run/node/initialised
exec /run/programs/pause
