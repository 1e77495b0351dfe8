# shellcheck shell=bash
# The programs of the cluster and their options, in the order in which they start. All run inside the node, so paths
# are those that node_init.sh gives them: /run/node is the state folder. Sourced by tests/cluster.

COMPONENTS=(etcd apiserver controller-manager scheduler containerd kubelet proxy)

launch() { # component
    "launch_${1//-/_}"
}

launch_etcd() {
    # The state is thrown away with the cluster: nothing is gained by waiting for the disk.
    spawn etcd etcd --name=test --data-dir=/run/node/etcd --unsafe-no-fsync \
        --listen-client-urls=http://127.0.0.1:2379 --advertise-client-urls=http://127.0.0.1:2379 \
        --listen-peer-urls=http://127.0.0.1:2380 --initial-advertise-peer-urls=http://127.0.0.1:2380 \
        --initial-cluster=test=http://127.0.0.1:2380 --log-level=warn
}

launch_apiserver() {
    local keys=/run/node/keys
    spawn apiserver kube-apiserver --etcd-servers=http://127.0.0.1:2379 --advertise-address="$NODE_IP" \
        --service-cluster-ip-range="$SERVICES" --allow-privileged --profiling=false \
        --authorization-mode=Node,RBAC --enable-admission-plugins=NodeRestriction,ServiceAccount \
        --client-ca-file=$keys/ca.crt --tls-cert-file=$keys/apiserver.crt --tls-private-key-file=$keys/apiserver.key \
        --service-account-issuer="https://kubernetes.default.svc.$DOMAIN" \
        --service-account-key-file=$keys/tokens.pub --service-account-signing-key-file=$keys/tokens.key \
        --kubelet-preferred-address-types=InternalIP --kubelet-certificate-authority=$keys/ca.crt \
        --kubelet-client-certificate=$keys/apiserver-kubelet.crt --kubelet-client-key=$keys/apiserver-kubelet.key \
        --requestheader-client-ca-file=$keys/ca.crt --requestheader-allowed-names=front-proxy-client \
        --requestheader-extra-headers-prefix=X-Remote-Extra- --requestheader-group-headers=X-Remote-Group \
        --requestheader-username-headers=X-Remote-User \
        --proxy-client-cert-file=$keys/front-proxy.crt --proxy-client-key-file=$keys/front-proxy.key
}

launch_controller_manager() {
    local keys=/run/node/keys
    spawn controller-manager kube-controller-manager --kubeconfig=$keys/controller-manager.kubeconfig \
        --leader-elect=false --profiling=false --bind-address=127.0.0.1 \
        --use-service-account-credentials --service-account-private-key-file=$keys/tokens.key \
        --root-ca-file=$keys/ca.crt --cluster-signing-cert-file=$keys/ca.crt --cluster-signing-key-file=$keys/ca.key \
        --flex-volume-plugin-dir=/var/lib/kubelet/volume-plugins \
        --allocate-node-cidrs --cluster-cidr="$PODS" --service-cluster-ip-range="$SERVICES"
}

launch_scheduler() {
    spawn scheduler kube-scheduler --kubeconfig=/run/node/keys/scheduler.kubeconfig \
        --leader-elect=false --profiling=false --bind-address=127.0.0.1
}

launch_containerd() {
    mkdir -p "$state/network"
    # Every pod on a link of its own, routed: on a bridge an answer from a neighbour would pass by the translation
    # of service addresses unless the kernel filters bridged packets too.
    cat >"$state/network/10-pods.conflist" <<END
{"cniVersion": "1.0.0", "name": "pods", "plugins": [
  {"type": "ptp", "mtu": 1500, "ipam": {"type": "host-local", "subnet": "$POD_RANGE", "routes": [{"dst": "0.0.0.0/0"}]}},
  {"type": "portmap", "capabilities": {"portMappings": true}}]}
END
    cat >"$state/containerd.toml" <<END
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
disabled_plugins = ["io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.btrfs", "io.containerd.snapshotter.v1.zfs",
  "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.devmapper", "io.containerd.tracing.processor.v1.otlp"]
[grpc]
address = "/run/containerd/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = "$(image pause)"
# Lowering a score takes a capability that root has not everywhere.
restrict_oom_score_adj = true
disable_apparmor = true
[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
SystemdCgroup = false
[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = "/usr/lib/cni"
conf_dir = "/run/node/network"
END
    spawn containerd containerd --config /run/node/containerd.toml
}

launch_kubelet() {
    # An upstream server, so that names of other domains fail at once instead of looping.
    echo "nameserver 127.0.0.1" >"$state/resolv.conf"
    # A full disk or a small machine must not evict a test's pods, nor collect images that no registry could give
    # back: thresholds that are not named are off.
    cat >"$state/kubelet.yaml" <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
clusterDNS: [$DNS_SERVICE]
clusterDomain: $DOMAIN
resolvConf: /run/node/resolv.conf
tlsCertFile: /run/node/keys/kubelet.crt
tlsPrivateKeyFile: /run/node/keys/kubelet.key
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: /run/node/keys/ca.crt}
authorization: {mode: Webhook}
cgroupDriver: cgroupfs
cgroupsPerQOS: false
enforceNodeAllocatable: []
failCgroupV1: false
failSwapOn: false
makeIPTablesUtilChains: false
evictionHard: {memory.available: 100Mi}
imageGCHighThresholdPercent: 100
maxPods: 250
kubeAPIQPS: 100
kubeAPIBurst: 200
serializeImagePulls: false
volumePluginDir: /var/lib/kubelet/volume-plugins
END
    spawn kubelet kubelet --config=/run/node/kubelet.yaml --kubeconfig=/run/node/keys/kubelet.kubeconfig \
        --hostname-override="$NODE" --node-ip="$NODE_IP"
}

launch_proxy() {
    # Limits of connection tracking belong to the whole machine.
    spawn proxy kube-proxy --kubeconfig=/run/node/keys/proxy.kubeconfig --hostname-override="$NODE" \
        --proxy-mode=nftables --cluster-cidr="$PODS" --conntrack-max-per-core=0 --conntrack-min=0 \
        --conntrack-tcp-timeout-established=0 --conntrack-tcp-timeout-close-wait=0
}

# Has etcd forget everything but what is there now.
compact() {
    local revision
    revision=$(inside etcdctl endpoint status --write-out=json | grep -o '"revision":[0-9]*' | cut -d: -f2)
    inside etcdctl compact "$revision"
}

# Starts all of them and waits until the cluster works: node Ready, names resolved.
start_components() {
    launch etcd
    launch containerd
    wait_for etcd etcd inside etcdctl --endpoints=http://127.0.0.1:2379 endpoint health
    launch apiserver
    wait_for containerd containerd inside ctr version
    local entry
    for entry in "${IMAGES[@]}"; do
        load "$cache/${entry%%=*}.tar"
    done
    wait_for "the API server" apiserver kubectl get --raw /readyz
    launch controller-manager
    launch scheduler
    launch kubelet
    launch proxy
    sed -e "s|@IMAGE@|$(image coredns)|; s|@DNS_SERVICE@|$DNS_SERVICE|; s|@DOMAIN@|$DOMAIN|" "$here/coredns.yaml" |
        kubectl apply --filename=- >"$logs/coredns.log"
    wait_for "the node" kubelet kubectl wait --for=condition=Ready "node/$NODE" --timeout=1s
    wait_for "CoreDNS" kubelet kubectl --namespace=kube-system wait --for=condition=Available deployment/coredns --timeout=1s
}

# Gives the cluster an image, a tar with an OCI layout or as `docker save` writes it.
load() { # tar
    inside ctr --namespace=k8s.io images import --all-platforms - <"$1" >>"$logs/images.log"
}
