{{/*
The groups of one role.
  manyhost.group    LeaderWorkerSet; dict of the root context's keys and "role"
*/}}

{{- define "manyhost.group" -}}
{{- $values := .Values -}}
{{- $sizes := include "manyhost.sizes" . | fromJson -}}
{{- $annotations := include "manyhost.podAnnotations" . -}}
{{- $spec := include "manyhost.podSpec" . -}}
apiVersion: leaderworkerset.x-k8s.io/v1
kind: LeaderWorkerSet
metadata:
  name: {{ include "manyhost.setName" . | quote }}
  namespace: {{ .Release.Namespace | quote }}
  labels:
    {{- include "manyhost.labels" . | nindent 4 }}
    {{- with .role }}
    manyhost.dev/role: {{ . }}
    {{- end }}
    {{- with $values.queue }}
    kueue.x-k8s.io/queue-name: {{ . | quote }}
    {{- end }}
  {{- $janitor := include "manyhost.janitor.on" . }}
  {{- if or $values.clusterName $values.exclusiveTopologyKey $janitor }}
  annotations:
    {{- with $values.clusterName }}
    manyhost.dev/cluster-name: {{ . | quote }}
    {{- end }}
    {{- with $values.exclusiveTopologyKey }}
    leaderworkerset.sigs.k8s.io/exclusive-topology: {{ . | quote }}
    {{- end }}
    {{- if $janitor }}
    manyhost.dev/held-minutes: {{ int64 $values.janitor.heldMinutes | quote }}
    # Changes with every upgrade, so that one with Helm alone brings back groups that were released.
    manyhost.dev/revision: {{ .Release.Revision | quote }}
    {{- end }}
  {{- end }}
spec:
  {{- if eq $values.mode "nccl" }}
  replicas: 1
  {{- else if eq .role "prefill" }}
  replicas: {{ int64 $values.roles.prefill.groups }}
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
    size: {{ int64 $sizes.hosts }}
    {{- if eq $values.mode "nccl" }}
    # What failed stays, with its log.
    restartPolicy: None
    {{- else }}
    # A lost rank cannot rejoin its group.
    restartPolicy: RecreateGroupOnPodRestart
    {{- end }}
    leaderTemplate:
      {{- include "manyhost.pod" (dict "root" . "member" "leader" "annotations" $annotations "spec" $spec) | nindent 6 }}
    workerTemplate:
      {{- include "manyhost.pod" (dict "root" . "member" "worker" "annotations" $annotations "spec" $spec) | nindent 6 }}
{{- end }}
