{{- /* Not empty when the definition of that name is missing or ours, made by Helm: what `tasuki install` has made, Helm refuses
       to touch, and it stays. Without a cluster, all are missing. */}}
{{- define "tasuki-crds.ours" -}}
{{- $existing := lookup "apiextensions.k8s.io/v1" "CustomResourceDefinition" "" . -}}
{{- $labels := dig "metadata" "labels" dict $existing -}}
{{- $annotations := dig "metadata" "annotations" dict $existing -}}
{{- $ours := and (eq (get $labels "app.kubernetes.io/part-of") "tasuki") (hasKey $annotations "meta.helm.sh/release-name") -}}
{{- if or (not $existing) $ours -}}true{{- end -}}
{{- end }}
