# shellcheck shell=bash
# Sees that the cluster does what our tests need of it: pods with init containers, native sidecars, probes and
# projected tokens; service addresses and names, from pods and from the node; logs and commands in containers.
# Sourced by tests/cluster.

smoke() {
    local began=$SECONDS pod audience token status answer service
    sed "s|@IMAGE@|$(image smoke)|" "$here/smoke.yaml" | kubectl apply --filename=- >"$logs/smoke.log"
    wait_for "the smoke pods" kubelet in_smoke wait --for=condition=Available deployment/web --timeout=1s
    say "pods with an init container, a native sidecar and a token are Ready after $((SECONDS - began)) s"

    service=$(in_smoke get service web --output='jsonpath={.spec.clusterIP}')
    wait_for "an answer to the node from the service address $service" proxy in_network "$cache/smoke" get "http://$service/"

    in_smoke create job client --image="$(image smoke)" -- /smoke get "http://web.smoke.svc.$DOMAIN/" >>"$logs/smoke.log"
    wait_for "the smoke client" kubelet in_smoke wait --for=condition=Complete job/client --timeout=1s
    answer=$(in_smoke logs job/client)
    [[ $answer == web-* ]] || die "a pod got no answer by the name of a service, but: $answer"
    say "a job reached $answer by name and service address"

    pod=$(in_smoke get pods --selector=app=web --output='jsonpath={.items[0].metadata.name}')
    # A pod that is its own service's endpoint: the answer must come back through the translation.
    for _ in {1..20}; do
        answer=$(in_smoke exec "$pod" --container=web -- /smoke get "http://$service/")
        [ "$answer" != "$pod" ] || break
    done
    [ "$answer" = "$pod" ] || die "$pod never reached itself by the service address $service"
    ! in_smoke exec "$pod" --container=web -- /smoke get http://192.0.2.1/ >>"$logs/smoke.log" 2>&1 ||
        die "$pod reached an address outside the cluster"
    audience=$(in_smoke exec "$pod" --container=web -- /smoke audience /var/run/secrets/tasuki/token)
    [ "$audience" = tasuki-ca ] || die "the token is for '$audience', not for tasuki-ca"

    token=$(in_smoke exec "$pod" --container=web -- /smoke cat /var/run/secrets/tasuki/token)
    status=$(token_review "$token" tasuki-ca)
    [ "$status" = "true system:serviceaccount:smoke:default [\"$pod\"]" ] || die "the API server says of the token: $status"
    status=$(token_review "$token" another)
    [[ $status != true* ]] || die "the API server takes the token for another audience"
    say "the token of $pod is good for its audience alone"

    kubectl delete namespace smoke --timeout=120s >>"$logs/smoke.log"
    say "smoke passed in $((SECONDS - began)) s"
}

in_smoke() {
    kubectl --namespace=smoke "$@"
}

# Whether a token is good, whose it is, and of which pod.
token_review() { # token audience
    kubectl create --filename=- --output='jsonpath={.status.authenticated} {.status.user.username} {.status.user.extra.authentication\.kubernetes\.io/pod-name}' <<END
{"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": "$1", "audiences": ["$2"]}}
END
}
