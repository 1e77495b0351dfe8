# shellcheck shell=bash
# The node: namespaces that hold the whole cluster, and programs started and killed in them. Sourced by tests/cluster.

# Makes the namespaces. `unshare` stays outside as the parent of the node's first process; in a session of its own,
# so that Ctrl-C reaches only the script, which then stops the cluster.
make_node() {
    setsid unshare --net --mount --pid --fork --mount-proc --kill-child --propagation private \
        bash "$here/node_init.sh" "$state" "$cache" "$GROUP" "$NODE_IP" "$SERVICES" \
        </dev/null >"$logs/node.log" 2>&1 &
    echo $! >"$state/outside.pid"
    disown
    # Until it has become `unshare`, it cannot be told from another process of that number.
    until outside_pid >/dev/null || ! kill -0 $! 2>/dev/null; do sleep 0.01; done
    wait_for "the node's namespaces" node test -e "$state/initialised"
}

# The process that `unshare` is; fails where it ended, and where its number is another's by now.
outside_pid() {
    local pid
    pid=$(cat "$state/outside.pid" 2>/dev/null) || return 1
    grep --quiet --null-data --line-regexp --fixed-strings "$state" "/proc/$pid/cmdline" 2>/dev/null && echo "$pid"
}

# The node's first process, as this machine numbers it.
node_pid() {
    local outside pid
    outside=$(outside_pid) || return 1
    # One number and a blank, without the end of line that `read` would want.
    pid=$(cut -d' ' -f1 "/proc/$outside/task/$outside/children" 2>/dev/null) && [ -n "$pid" ] && echo "$pid"
}

# Runs a command in all namespaces of the node, with nothing of our environment (proxies, tokens). `ip netns exec`
# would mount /sys anew, and runc would find no cgroups.
inside() {
    (cd / && env -i PATH=/run/programs:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root \
        nsenter --target "$(node_pid)" --net --mount --pid --cgroup -- "$@")
}

# Runs a command in the network of the cluster and with the files of this machine.
in_network() {
    PATH="$cache:$PATH" TASUKI_CLUSTER="$here/../cluster" KUBECONFIG="$keys/admin.kubeconfig" KUBECACHEDIR="$state/kubectl" \
        nsenter --net="/proc/$(node_pid)/ns/net" -- "$@"
}

kubectl() {
    in_network kubectl "$@"
}

# Starts a program of the node in the background; it becomes a child of the node's first process and joins its
# control groups.
spawn() { # name command...
    # shellcheck disable=SC2016
    inside setsid --fork bash -c '
        echo $$ >"/run/pids/$0"
        for group in $(compgen -G "/sys/fs/cgroup/*/node/cgroup.procs" || echo /sys/fs/cgroup/node/cgroup.procs); do
            echo 0 >"$group"
        done
        exec "$@" </dev/null >>"/run/node/log/$0.log" 2>&1' "$@"
}

# Kills a program as a crash would; its containers, if it has any, live on.
kill_program() { # name
    # shellcheck disable=SC2016
    inside bash -c 'pid=$(cat "/run/pids/$0") && kill -KILL "$pid" && while kill -0 "$pid" 2>/dev/null; do sleep 0.05; done' "$1"
}

# Waits for a fact, at most five minutes (the machine may be busy), and says which log to read when it does not come.
wait_for() { # what log command...
    local what=$1 log=$2 deadline=$((SECONDS + 300))
    shift 2
    until "$@" >/dev/null 2>&1; do
        outside_pid >/dev/null || fail "$log" "the node ended while we waited for $what"
        [ $SECONDS -lt $deadline ] || fail "$log" "$what did not come within five minutes"
        sleep 0.2
    done
}

fail() { # log message
    tail -n 15 "$logs/$1.log" >&2 || true
    die "$2; the logs are in $logs"
}

# Ends every process of the node, and with the last one its mounts, links and rules. Control groups are the only
# thing that outlives them.
remove_node() {
    local outside groups
    while outside=$(outside_pid); do
        kill -KILL "$(node_pid || echo "$outside")" 2>/dev/null || true
        sleep 0.05
    done
    # A process that was just killed may leave its group a moment later.
    for _ in {1..20}; do
        groups=$(find /sys/fs/cgroup -maxdepth 2 -type d -name "$GROUP")
        [ -n "$groups" ] || break
        # shellcheck disable=SC2086
        find $groups -depth -type d -delete 2>/dev/null || sleep 0.2
    done
    [ -z "$groups" ] || say "control groups that could not be removed: $groups"
    find "$state" -mindepth 1 -maxdepth 1 ! -name log -exec rm -rf {} +
}
