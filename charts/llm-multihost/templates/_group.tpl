{{/*
The groups of a release. In mode nccl there is one, of two hosts, and its duty is "". Without disaggregation there is one LeaderWorkerSet, and its duty is "";
with it one for each duty, "decode" (which keeps the release's name) and "prefill".
  manyhost.group    LeaderWorkerSet; dict of the root context's keys and "duty"
  manyhost.setName  its name (the same dict)
*/}}

{{- define "manyhost.setName" -}}
{{ .Release.Name }}{{ if eq .duty "prefill" }}-prefill{{ end }}
{{- end }}

{{- define "manyhost.group" -}}
{{- $values := .Values -}}
{{- $model := $values.model -}}
{{- $annotations := include "manyhost.podAnnotations" . -}}
{{- $spec := include "manyhost.podSpec" . -}}
{{- /* The router stands before the engine that answers, and only a leader has an API. */}}
{{- $leader := $spec -}}
{{- if eq .duty "decode" }}
{{- $leader = include "manyhost.podSpec" (merge (dict "router" true) .) -}}
{{- end -}}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: {{ include "manyhost.setName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "manyhost.labels" . | nindent 4 }}
    {{- with .duty }}
    manyhost.dev/role: {{ . }}
    {{- end }}
    {{- with $values.queue }}
    kueue.x-k8s.io/queue-name: {{ . | quote }}
    {{- end }}
  {{- if or $values.clusterName $values.exclusiveTopologyKey }}
  annotations:
    {{- with $values.clusterName }}
    manyhost.dev/cluster-name: {{ . | quote }}
    {{- end }}
    {{- with $values.exclusiveTopologyKey }}
    leaderworkerset.sigs.k8s.io/exclusive-topology: {{ . | quote }}
    {{- end }}
  {{- end }}
spec:
  {{- if eq $values.mode "nccl" }}
  replicas: 1
  {{- else if eq .duty "prefill" }}
  replicas: {{ int64 $values.disaggregation.prefillGroups }}
  {{- else if not $values.autoscaling.enabled }}
  replicas: {{ int64 $values.vllm.replicaCount }}
  {{- end }}
  # Workers must start beside the leader: it is not ready before all ranks have joined.
  startupPolicy: LeaderCreated
  rolloutStrategy:
    type: RollingUpdate
    rollingUpdateConfiguration:
      maxUnavailable: {{ include "manyhost.amount" $values.rollout.maxUnavailable }}
      maxSurge: {{ include "manyhost.amount" $values.rollout.maxSurge }}
  leaderWorkerTemplate:
    {{- if eq $values.mode "nccl" }}
    size: 2
    # What failed stays, with its log.
    restartPolicy: None
    {{- else }}
    size: {{ div (mul $model.tp_size $model.pp_size $model.dp_size) (include "manyhost.ranksPerHost" .) }}
    # A lost rank cannot rejoin its group.
    restartPolicy: RecreateGroupOnPodRestart
    {{- end }}
    leaderTemplate:
      {{- include "manyhost.pod" (dict "root" . "role" "leader" "annotations" $annotations "spec" $leader) | nindent 6 }}
    workerTemplate:
      {{- include "manyhost.pod" (dict "root" . "role" "worker" "annotations" $annotations "spec" $spec) | nindent 6 }}
{{- end }}
