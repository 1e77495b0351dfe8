//! Core kinds as `kubectl get -o yaml` prints them: with much that the mesh does not read.

use super::{Service, ServiceKind, TargetPort, Transport};
use crate::core::pod::Phase;
use crate::{Object, PortProtocol, parse_documents};

fn read(text: &str) -> Object {
    let document = parse_documents("t.yaml", text).remove(0);
    document
        .object
        .unwrap_or_else(|| panic!("{:?}", document.problems))
}

fn service(spec: &str) -> Service {
    match read(&format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: cart, creationTimestamp: \"2026-01-31T12:00:00Z\", managedFields: [{{a: b}}]}}\nspec: {spec}\nstatus: {{loadBalancer: {{}}}}\n"
    )) {
        Object::Service(service) => service,
        other => panic!("{other:?}"),
    }
}

#[test]
fn services_of_every_kind() {
    let plain = service(
        "{type: NodePort, clusterIP: 10.0.0.1, clusterIPs: [10.0.0.1, \"fd00::1\"], sessionAffinity: None, selector: {app: cart}, ports: [{name: http-web, port: 80, targetPort: 8080, nodePort: 30000}, {name: db, port: 3306, targetPort: mysql}, {name: dns, port: 53, protocol: UDP}, {name: x, port: 9000, appProtocol: grpc}]}",
    );
    assert_eq!(plain.meta.name.to_string(), "default/cart");
    assert!(plain.meta.created.is_some());
    assert!(matches!(&plain.kind, ServiceKind::ClusterIp(ips) if ips.len() == 2));
    let protocols: Vec<_> = plain.ports.iter().map(|p| p.protocol()).collect();
    assert_eq!(
        protocols,
        [
            PortProtocol::Http,
            PortProtocol::Tcp,
            PortProtocol::Tcp,
            PortProtocol::Grpc
        ]
    );
    assert_eq!(plain.ports[0].target, TargetPort::Number(8080));
    assert_eq!(plain.ports[1].target, TargetPort::Name("mysql".into()));
    assert_eq!(plain.ports[2].transport, Transport::Udp);
    assert_eq!(
        service("{clusterIP: None, ports: [{port: 80}]}").kind,
        ServiceKind::Headless
    );
    assert_eq!(
        service("{ports: [{port: 80}]}").kind,
        ServiceKind::ClusterIp(Vec::new())
    );
    assert_eq!(
        service("{type: ExternalName, externalName: Pay.Example}").kind,
        ServiceKind::ExternalName("pay.example".into())
    );
    assert_eq!(service("{selector: {}, ports: []}").selector, None);
}

#[test]
fn pods_with_and_without_status() {
    let text = "apiVersion: v1\nkind: Pod\nmetadata:\n  name: cart-1\n  namespace: shop\n  labels: {app: cart}\n  ownerReferences: [{kind: ReplicaSet, name: cart-6c9f, controller: true}]\n\
                spec:\n  serviceAccountName: cart\n  containers:\n  - name: app\n    image: x\n    ports: [{name: http, containerPort: 8080}]\n";
    let Object::Pod(bare) = read(text) else {
        panic!()
    };
    assert!(!bare.is_live() && !bare.ready);
    assert_eq!(
        bare.controller,
        Some(("ReplicaSet".to_owned(), "cart-6c9f".to_owned()))
    );
    let Object::Pod(running) = read(&format!(
        "{text}status: {{podIP: 10.1.0.1, phase: Running, qosClass: Burstable}}\n"
    )) else {
        panic!()
    };
    assert!(running.is_live() && running.ready);
    assert_eq!(
        (running.service_account.as_str(), running.phase),
        ("cart", Phase::Running)
    );
    assert_eq!(
        running.resolve_port(&TargetPort::Name("http".into()), Transport::Tcp),
        Some(8080)
    );
    assert_eq!(
        running.resolve_port(&TargetPort::Name("nope".into()), Transport::Tcp),
        None
    );
    let Object::Pod(unready) = read(&format!(
        "{text}status: {{podIPs: [{{ip: 10.1.0.1}}, {{ip: \"fd00::2\"}}], conditions: [{{type: Ready, status: \"False\"}}]}}\n"
    )) else {
        panic!()
    };
    assert!(unready.is_live() && !unready.ready);
    assert_eq!(unready.ips.len(), 2);
}

#[test]
fn endpoint_slices() {
    let text = "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: cart-x, namespace: shop, labels: {kubernetes.io/service-name: cart}}\naddressType: IPv4\n\
                ports: [{name: http, port: 8080, protocol: TCP}, {name: all}]\nendpoints:\n- addresses: [10.1.0.1]\n  conditions: {ready: false, serving: true, terminating: true}\n  targetRef: {kind: Pod, name: cart-1}\n- addresses: [10.1.0.2]\n  conditions: {}\n";
    let Object::EndpointSlice(slice) = read(text) else {
        panic!()
    };
    assert_eq!((slice.service.as_str(), slice.ports.len()), ("cart", 1));
    let [draining, ready] = slice.endpoints.as_slice() else {
        panic!()
    };
    assert!(!draining.ready && draining.serving && draining.terminating);
    assert_eq!(draining.pod.as_ref().unwrap().to_string(), "shop/cart-1");
    assert!(ready.ready && ready.serving && !ready.terminating);
}

#[test]
fn other_kinds_and_lists() {
    let text = "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: x}\n---\n# nothing\n---\napiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n---\n\
                apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Namespace, metadata: {name: shop}}\n- {apiVersion: v1, kind: ServiceAccount, metadata: {name: x}}\n";
    let documents = parse_documents("t.yaml", text);
    assert_eq!(documents.len(), 1);
    assert_eq!(
        documents[0].object.as_ref().unwrap().key().to_string(),
        "Namespace shop"
    );
}

#[test]
fn json_files_and_api_objects() {
    let json = "{\n\t\"apiVersion\": \"v1\", \"kind\": \"NamespaceList\", \"items\": [{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"a\"}}]\n}\n{\"apiVersion\": \"v1\", \"kind\": \"Namespace\", \"metadata\": {\"name\": \"b\"}}";
    let names: Vec<_> = parse_documents("t.json", json)
        .iter()
        .map(|d| d.object.as_ref().unwrap().meta().name.name.clone())
        .collect();
    assert_eq!(names, ["a", "b"]);
    let value =
        serde_json::json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a"}});
    assert!(crate::parse_json(&value)[0].object.is_some());
    assert!(parse_documents("t.json", "").is_empty());
    assert!(parse_documents("t.json", "{\"apiVersion\": ")[0].unreadable);
}

#[test]
fn what_sidecars_leave_out_of_a_service_is_said() {
    let read = |fields: &str| {
        let text = format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: a, annotations: {{service.kubernetes.io/topology-mode: Auto}}}}\nspec: {{clusterIP: 10.0.0.1, ports: [{{port: 80}}], {fields}}}\n"
        );
        let document = parse_documents("t.yaml", &text).remove(0);
        assert!(document.object.is_some());
        let fields = document.problems.into_iter().map(|problem| {
            assert_eq!(problem.severity, crate::Severity::Warning);
            problem.field
        });
        fields.collect::<Vec<_>>()
    };
    let annotation = "metadata.annotations[\"service.kubernetes.io/topology-mode\"]";
    assert_eq!(
        read(
            "internalTrafficPolicy: Local, sessionAffinity: ClientIP, trafficDistribution: PreferClose"
        ),
        [
            "spec.internalTrafficPolicy",
            "spec.sessionAffinity",
            "spec.trafficDistribution",
            annotation
        ]
    );
    assert_eq!(
        read("internalTrafficPolicy: Cluster, sessionAffinity: None"),
        [annotation]
    );
}
