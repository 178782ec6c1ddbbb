{{/*
Scraping one kind of pods of the release.
  observability.monitor  PodMonitoring or PodMonitor; dict of the root context's keys, "part" (what the object's name
                         ends with), "pods" (labels that select them) and "from" (label that says what they do)
*/}}

{{- define "observability.monitor" -}}
{{- $values := .Values -}}
{{- $google := eq $values.prometheus "google" -}}
apiVersion: {{ $google | ternary "monitoring.googleapis.com" "monitoring.coreos.com" }}/v1
kind: {{ $google | ternary "PodMonitoring" "PodMonitor" }}
metadata:
  name: {{ printf "%s-%s" .Release.Name .part | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "observability.labels" . | nindent 4 }}
    {{- include "manyhost.strings" $values.labels | nindent 4 }}
spec:
  selector:
    matchLabels:
      app.kubernetes.io/name: llm-multihost
      app.kubernetes.io/instance: {{ $values.release | quote }}
      {{- include "manyhost.strings" .pods | nindent 6 }}
  {{- /* Both give a target the two labels that every rule and dashboard selects by. */}}
  {{- if $google }}
  endpoints:
  - port: {{ $values.port }}
    path: /metrics
    interval: {{ int64 $values.scrapeSeconds }}s
  targetLabels:
    metadata: [pod, container, node]
    fromPod:
    - {from: app.kubernetes.io/instance, to: manyhost_release}
    - {from: {{ .from }}, to: manyhost_role}
  {{- else }}
  podMetricsEndpoints:
  - port: {{ $values.port }}
    path: /metrics
    interval: {{ int64 $values.scrapeSeconds }}s
    relabelings:
    - sourceLabels: [__meta_kubernetes_pod_label_app_kubernetes_io_instance]
      targetLabel: manyhost_release
    - sourceLabels: [__meta_kubernetes_pod_label_{{ regexReplaceAll "[^a-zA-Z0-9_]" .from "_" }}]
      targetLabel: manyhost_role
    - sourceLabels: [__meta_kubernetes_pod_node_name]
      targetLabel: node
  {{- end }}
{{- end }}
