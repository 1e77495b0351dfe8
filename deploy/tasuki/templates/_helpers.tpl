{{- define "tasuki.selector" -}}
app.kubernetes.io/name: tasuki-control
{{- end }}

{{- define "tasuki.labels" -}}
{{ include "tasuki.selector" . }}
app.kubernetes.io/part-of: tasuki
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
{{- end }}

{{- /* The whole name of an image of ours: list of the root and the program's name. */ -}}
{{- define "tasuki.image" -}}
{{- $root := index . 0 -}}
{{ $root.Values.image.registry }}/{{ index . 1 }}:{{ $root.Values.image.tag | default $root.Chart.AppVersion }}
{{- end }}

{{- /* What all webhooks say: list of the root and the path. */ -}}
{{- define "tasuki.webhook" -}}
{{- $root := index . 0 -}}
clientConfig:
  service:
    name: tasuki-control
    namespace: tasuki-system
    path: {{ index . 1 }}
    port: 443
failurePolicy: {{ $root.Values.webhook.failurePolicy }}
matchPolicy: Equivalent
sideEffects: None
timeoutSeconds: 10
admissionReviewVersions: [v1]
{{- end }}

{{- /* What webhooks for injection say besides. */ -}}
{{- define "tasuki.injector" -}}
{{ include "tasuki.webhook" (list . "/inject") }}
reinvocationPolicy: IfNeeded
rules:
  - operations: [CREATE]
    apiGroups: [""]
    apiVersions: [v1]
    resources: [pods]
    scope: Namespaced
{{- end }}

{{- /* Our own pods and the cluster's never wait for us. */ -}}
{{- define "tasuki.outside" -}}
- key: kubernetes.io/metadata.name
  operator: NotIn
  values: [kube-system, tasuki-system]
{{- end }}

{{- define "tasuki.validator" -}}
{{ include "tasuki.webhook" (list . "/validate") }}
rules:
  - operations: [CREATE, UPDATE]
    apiGroups: [networking.istio.io]
    apiVersions: ["*"]
    resources: [destinationrules, gateways, serviceentries, virtualservices]
    scope: "*"
  - operations: [CREATE, UPDATE]
    apiGroups: [security.istio.io]
    apiVersions: ["*"]
    resources: [authorizationpolicies, peerauthentications]
    scope: "*"
  - operations: [CREATE, UPDATE]
    apiGroups: [tasuki.dev]
    apiVersions: ["*"]
    resources: [meshsettings]
    scope: "*"
{{- end }}
