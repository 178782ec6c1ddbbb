{{/*
Names, labels and the image reference.
  manyhost.labels              labels of every object (root context)
  manyhost.leaderLabels        labels that select the leaders (root context)
  manyhost.testLabels          labels that select the pod of helm test (root context)
  manyhost.gateway.on          "true" when a Gateway routes to the groups (root context)
  manyhost.clientService       name of the Service that clients talk to (root context)
  manyhost.image               reference of the engine image (root context)
  manyhost.networks            names of the Network objects in NIC order, as JSON (root context)
  manyhost.leastGroups         groups that clients talk to, the fewest while autoscaling is on (root context)
  manyhost.stayingGroups       groups that podDisruptionBudget keeps, a percentage rounded up (root context)
  manyhost.ranksPerHost        GPUs of one host; a host without GPUs counts as one rank
*/}}

{{- define "manyhost.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- with .Values.job.image }}
app.kubernetes.io/version: {{ .tag | default (.digest | replace ":" "-" | trunc 19) | trunc 63 | trimSuffix "." | trimSuffix "-" | quote }}
{{- end }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/component: inference
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- with .Values.host.environment }}
manyhost.dev/environment: {{ . | quote }}
{{- end }}
{{- with .Values.recipe }}
manyhost.dev/recipe: {{ . | replace "/" "." | quote }}
{{- end }}
{{- end }}

{{- /* These two are set by the LeaderWorkerSet controller; rank 0 of a group is its leader. */}}
{{- define "manyhost.leaderLabels" -}}
leaderworkerset.sigs.k8s.io/name: {{ .Release.Name | quote }}
leaderworkerset.sigs.k8s.io/worker-index: "0"
{{- end }}

{{- define "manyhost.testLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-test
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "manyhost.gateway.on" -}}
{{- if and (eq .Values.mode "serve") (eq .Values.routing "inferencepool") }}true{{ end -}}
{{- end }}

{{- define "manyhost.clientService" -}}
{{ .Release.Name }}-{{ ternary "router" "svc" (eq (include "manyhost.apart" .) "true") }}
{{- end }}

{{- define "manyhost.image" -}}
{{- with .Values.job.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag }}{{ end }}
{{- end -}}
{{- end }}

{{- define "manyhost.networks" -}}
{{ .Values.network.subnetworks | default .Values.host.networks | toJson }}
{{- end }}

{{- define "manyhost.leastGroups" -}}
{{ int64 (.Values.autoscaling.enabled | ternary .Values.autoscaling.minReplicas .Values.vllm.replicaCount) }}
{{- end }}

{{- define "manyhost.stayingGroups" -}}
{{- $least := .Values.podDisruptionBudget.minAvailable }}
{{- if kindIs "string" $least -}}
{{ div (add (mul (include "manyhost.leastGroups" .) (trimSuffix "%" $least)) 99) 100 }}
{{- else -}}
{{ int64 $least }}
{{- end }}
{{- end }}

{{- define "manyhost.ranksPerHost" -}}
{{ max 1 (int64 .Values.host.gpus) }}
{{- end }}
