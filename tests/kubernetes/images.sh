# shellcheck shell=bash
# Our own programs as images of the cluster, packed from a folder of built ones. The shipped images' programs, places, users
# and entry points are those of the last stages of deploy/docker/*.Dockerfile; in place of their base images there is what
# ldd finds on this machine, and iptables. Sourced by tests/cluster.

# Where the built programs are; debug builds will do.
built() {
    echo "${TASUKI_BIN_DIR:-$state/../release}"
}

# Packs the images that have changed and gives them to the cluster, if one is running.
images() {
    local tar
    mkdir -p "$images"
    pack_shipped proxy proxy_files
    pack_shipped control nothing_more
    pack_ours tasuki-testkit 1000 nothing_more tasuki-origin tasuki-load
    node_pid >/dev/null || return 0
    for tar in "$images"/*.tar; do
        # A cluster that started since has none of them.
        [ "$tar.loaded" -nt "$tar" ] && [ "$tar.loaded" -nt "$state/started" ] && continue
        load "$tar"
        touch "$tar.loaded"
    done
    # What a rollout to another image of the sidecar goes to.
    inside ctr --namespace=k8s.io images tag --force "$(image tasuki-proxy)" tasuki.test/tasuki-proxy:other >>"$logs/images.log"
}

# The image that a Dockerfile of deploy/ describes.
pack_shipped() { # name more-files
    local file="$here/../../deploy/docker/$1.Dockerfile" user programs
    user=$(awk '$1 == "USER" {split($2, ids, ":"); print ids[1]}' "$file")
    # Of all that is copied from the build to /usr/local/bin/: the names.
    programs=$(awk '$1 == "COPY" && $2 == "--from=build" && $NF == "/usr/local/bin/" {
        for (i = 3; i < NF; i++) { sub(".*/", "", $i); print $i }}' "$file")
    if [ "$(sed -n 's/^ENTRYPOINT //p' "$file")" != "[\"/usr/local/bin/tasuki-$1\"]" ] ||
        [ "$(head -n 1 <<<"$programs")" != "tasuki-$1" ] || [[ ! $user =~ ^[1-9][0-9]*$ ]]; then
        die "$file: the last stage should copy tasuki-$1 first, to /usr/local/bin/, as the entry point, with a number for USER"
    fi
    # shellcheck disable=SC2086
    pack_ours "tasuki-$1" "$user" "$2" $programs
}

# An image of some programs, whose first is the entry point, of what they are linked with, and of more files.
pack_ours() { # image user more-files program...
    local name=$1 user=$2 more=$3 root program from
    shift 3
    from=$(built)
    [ -x "$from/$1" ] || die "$from has no $1: cargo build --release --workspace, or set TASUKI_BIN_DIR"
    [ "$(cat "$images/$name.from" 2>/dev/null)" = "$from" ] && [ "$images/$name.tar" -nt "$from/$1" ] &&
        [ "$images/$name.tar" -nt "$here/images.sh" ] &&
        [ -z "$(find "$here/../../deploy/docker" -newer "$images/$name.tar")" ] && return
    root=$(mktemp -d)
    # Writable ones are mounted over these where the root is read-only.
    mkdir -p "$root/tmp" "$root/run" "$root/etc"
    echo "root:x:0:0::/:/bin/false" >"$root/etc/passwd"
    echo "tasuki:x:$user:$user::/:/bin/false" >>"$root/etc/passwd"
    for program in "$@"; do
        install -D -m 755 "$from/$program" "$root/usr/local/bin/$program"
        # What makes a debug build big is of no use in the cluster.
        strip --strip-debug "$root/usr/local/bin/$program" 2>/dev/null || true
        libraries "$root" "$from/$program"
    done
    "$more" "$root"
    chmod 755 "$root"
    pack_image "$(image "$name")" "$root" "/usr/local/bin/$1" "$images/$name.tar" "$user"
    rm -rf "$root"
    echo "$from" >"$images/$name.from"
    say "packed $(image "$name"), $(($(stat -c %s "$images/$name.tar") / 1000000)) MB"
}

nothing_more() { :; }

# `redirect` runs iptables; one program goes by all of its names, with a module for each kind of match and target.
proxy_files() { # root
    local nft modules name
    nft=$(readlink -f "$(command -v iptables-nft)") || die "there is no iptables-nft here to put into the image"
    install -D -m 755 "$nft" "$1/usr/sbin/xtables-nft-multi"
    for name in iptables iptables-nft ip6tables ip6tables-nft; do
        ln -s xtables-nft-multi "$1/usr/sbin/$name"
        ln -s xtables-nft-multi "$1/usr/sbin/$name-restore"
    done
    libraries "$1" "$nft"
    modules=$(dirname "$(find /usr/lib -name libxt_REDIRECT.so -print -quit)")
    mkdir -p "$1$modules"
    cp "$modules"/libxt_*.so "$modules"/libip6t_*.so "$modules"/libipt_*.so "$1$modules/"
}

# What a program is linked with, where its loader looks for it.
libraries() { # root program
    local library
    while read -r library; do
        [ -e "$1$library" ] || install -D -m 755 "$(readlink -f "$library")" "$1$library"
    done < <(ldd "$2" | grep -o '/[^ ]*')
}
