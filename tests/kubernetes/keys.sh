# shellcheck shell=bash
# The cluster's keys: one CA, certificates whose subjects are what RBAC knows, and the key that signs tokens.
# Sourced by tests/cluster.

# Everything at once, below $state/keys; made anew for each start.
make_keys() {
    mkdir -p "$keys"
    openssl ecparam -name prime256v1 -genkey -noout -out "$keys/ca.key"
    openssl req -x509 -new -key "$keys/ca.key" -days 30 -subj /CN=kubernetes-ca -out "$keys/ca.crt" \
        -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign,cRLSign,digitalSignature
    openssl ecparam -name prime256v1 -genkey -noout -out "$keys/tokens.key"
    openssl ec -in "$keys/tokens.key" -pubout -out "$keys/tokens.pub" 2>/dev/null

    certificate apiserver /CN=kube-apiserver \
        "DNS:kubernetes,DNS:kubernetes.default,DNS:kubernetes.default.svc,DNS:kubernetes.default.svc.$DOMAIN,DNS:localhost,IP:$API_SERVICE,IP:$NODE_IP,IP:127.0.0.1"
    certificate kubelet "/O=system:nodes/CN=system:node:$NODE" "DNS:$NODE,IP:$NODE_IP"
    certificate apiserver-kubelet /O=system:masters/CN=kube-apiserver-kubelet-client
    certificate admin /O=system:masters/CN=admin
    certificate controller-manager /CN=system:kube-controller-manager
    certificate scheduler /CN=system:kube-scheduler
    certificate proxy /CN=system:kube-proxy
    # The API server's word for whom it forwards, to webhooks and aggregated servers.
    certificate front-proxy /CN=front-proxy-client

    local user
    for user in kubelet admin controller-manager scheduler proxy; do
        kubeconfig "$user" >"$keys/$user.kubeconfig"
    done
}

certificate() { # name subject [subject alternative names]
    openssl ecparam -name prime256v1 -genkey -noout -out "$keys/$1.key"
    {
        echo "extendedKeyUsage=clientAuth,serverAuth"
        [ -z "${3:-}" ] || echo "subjectAltName=$3"
    } >"$keys/extensions"
    openssl req -new -key "$keys/$1.key" -subj "$2" |
        openssl x509 -req -CA "$keys/ca.crt" -CAkey "$keys/ca.key" -CAcreateserial -days 30 \
            -extfile "$keys/extensions" -out "$keys/$1.crt" 2>/dev/null
}

kubeconfig() { # user
    cat <<END
apiVersion: v1
kind: Config
clusters:
- name: test
  cluster:
    server: https://$NODE_IP:6443
    certificate-authority-data: $(base64 -w0 "$keys/ca.crt")
users:
- name: $1
  user:
    client-certificate-data: $(base64 -w0 "$keys/$1.crt")
    client-key-data: $(base64 -w0 "$keys/$1.key")
contexts:
- name: test
  context: {cluster: test, user: $1}
current-context: test
END
}
