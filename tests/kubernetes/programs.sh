# shellcheck shell=bash
# What the cluster is made of: Debian packages, programs built through the Go module proxy and kept outside the
# clone by version, and the images packed from them. Sourced by tests/cluster.

KUBERNETES=$(awk '$1 == "k8s.io/kubernetes" {print substr($2, 2); exit}' "$here/go.mod")
cache="${XDG_CACHE_HOME:-$HOME/.cache}/tasuki/kubernetes-$KUBERNETES"

# name=package of everything that is built; those with a leading dot are ours.
PROGRAMS=(
    etcd=go.etcd.io/etcd/server/v3
    etcdctl=go.etcd.io/etcd/etcdctl/v3
    kube-apiserver=k8s.io/kubernetes/cmd/kube-apiserver
    kube-controller-manager=k8s.io/kubernetes/cmd/kube-controller-manager
    kube-scheduler=k8s.io/kubernetes/cmd/kube-scheduler
    kubelet=k8s.io/kubernetes/cmd/kubelet
    kube-proxy=k8s.io/kubernetes/cmd/kube-proxy
    kubectl=k8s.io/kubernetes/cmd/kubectl
    coredns=./coredns
    pause=./pause
    smoke=./smoke
)
# The images that start needs, each of one program: name=path in the image.
IMAGES=(pause=/pause coredns=/coredns smoke=/smoke)

packages() {
    local missing=()
    command -v containerd >/dev/null || missing+=(containerd)
    command -v runc >/dev/null || missing+=(runc)
    [ -x /usr/lib/cni/ptp ] || missing+=(containernetworking-plugins)
    command -v ip >/dev/null || missing+=(iproute2)
    command -v nft >/dev/null || missing+=(nftables)
    command -v openssl >/dev/null || missing+=(openssl)
    command -v flock >/dev/null || missing+=(util-linux)
    [ ${#missing[@]} -eq 0 ] && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        say "installing ${missing[*]}"
        apt-get update -qq
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
    else
        die "the cluster needs these packages of Debian, and only root can install them: ${missing[*]}"
    fi
}

# Go by itself, and new enough for the module file: Debian 12's is not.
go_toolchain() {
    local wanted have
    wanted=$(awk '$1 == "go" {print $2}' "$here/go.mod")
    have=$(go env GOVERSION 2>/dev/null) || die "the cluster's programs need Go $wanted or newer to build, and there is none here"
    printf '%s\n' "$wanted" "${have#go}" | sort -VC || die "the cluster's programs need Go $wanted or newer to build, here is ${have#go}"
}

# What a program was built from. Kubernetes' own are not built again when only ours change.
stamp() { # package flags
    local sources=("$here/go.mod" "$here/go.sum")
    [[ $1 == ./* ]] && sources+=("$here/$1/main.go")
    { echo "$2" && cat "${sources[@]}"; } | sha256sum
}

build_programs() {
    mkdir -p "$cache"
    exec {lock}>"$cache/lock"
    flock "$lock"
    local entry name package current started minor=${KUBERNETES#*.} version=k8s.io/component-base/version
    local flags="-s -w -X $version.gitVersion=v$KUBERNETES -X $version.gitMajor=1 -X $version.gitMinor=${minor%%.*}"
    local missing=() new
    for entry in "${PROGRAMS[@]}"; do
        name=${entry%%=*} package=${entry#*=}
        current=$(stamp "$package" "$flags")
        [ "$(cat "$cache/$name.stamp" 2>/dev/null)" = "$current" ] && [ -x "$cache/$name" ] || missing+=("$entry")
    done
    if [ ${#missing[@]} -gt 0 ]; then
        go_toolchain
        started=$SECONDS
        new=$(mktemp -d "$cache/new.XXXXXX")
        # All at once: they share most of their packages, and some are linked while others are still compiled.
        (cd "$here" && CGO_ENABLED=0 nice go build -trimpath -ldflags "$flags" -o "$new/" "${missing[@]#*=}")
        for entry in "${missing[@]}"; do
            name=${entry%%=*} package=${entry#*=}
            mv "$new/$(basename "${package%/v[0-9]}")" "$cache/$name"
            stamp "$package" "$flags" >"$cache/$name.stamp"
        done
        rm -rf "$new"
        say "built ${missing[*]%%=*} in $((SECONDS - started)) s"
    fi
    for entry in "${IMAGES[@]}"; do
        name=${entry%%=*}
        [ "$cache/$name.tar" -nt "$cache/$name" ] && continue
        pack_program "$name" "${entry#*=}"
    done
    exec {lock}>&-
}

pack_program() { # name path
    local root
    root=$(mktemp -d)
    install -D -m 755 "$cache/$1" "$root$2"
    pack_image "$(image "$1")" "$root" "$2" "$cache/$1.tar"
    rm -rf "$root"
}

# The name under which an image of ours is known in the cluster; no registry has it.
image() {
    echo "tasuki.test/$1:test"
}

# An image as an OCI layout in a tar: one layer with what is below a folder, and the program that runs.
pack_image() { # name root entrypoint tar [user]
    local layout digest size config manifest
    layout=$(mktemp -d)
    mkdir -p "$layout/blobs/sha256"
    tar --create --file "$layout/layer" --directory "$2" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 .
    digest=$(blob "$layout" layer)
    size=$(stat -c %s "$layout/blobs/sha256/$digest")
    printf '{"architecture":"%s","os":"linux","config":{"User":"%s","Entrypoint":["%s"],"Env":["PATH=/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]},"rootfs":{"type":"layers","diff_ids":["sha256:%s"]}}' \
        "$(architecture)" "${5:-0}" "$3" "$digest" >"$layout/config"
    config=$(blob "$layout" config)
    printf '{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:%s","size":%s},"layers":[{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:%s","size":%s}]}' \
        "$config" "$(stat -c %s "$layout/blobs/sha256/$config")" "$digest" "$size" >"$layout/manifest"
    manifest=$(blob "$layout" manifest)
    printf '{"schemaVersion":2,"manifests":[{"mediaType":"application/vnd.oci.image.manifest.v1+json","digest":"sha256:%s","size":%s,"annotations":{"io.containerd.image.name":"%s"}}]}' \
        "$manifest" "$(stat -c %s "$layout/blobs/sha256/$manifest")" "$1" >"$layout/index.json"
    echo '{"imageLayoutVersion":"1.0.0"}' >"$layout/oci-layout"
    tar --create --file "$4" --directory "$layout" oci-layout index.json blobs
    rm -rf "$layout"
}

# Moves a file among the blobs and prints its digest.
blob() { # layout file
    local digest
    digest=$(sha256sum "$1/$2" | cut -d' ' -f1)
    mv "$1/$2" "$1/blobs/sha256/$digest"
    echo "$digest"
}

architecture() {
    case "$(uname -m)" in
        x86_64) echo amd64 ;;
        aarch64) echo arm64 ;;
        *) uname -m ;;
    esac
}
