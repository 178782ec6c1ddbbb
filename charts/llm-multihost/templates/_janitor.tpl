{{/*
The janitor: what frees the hosts of a release whose lease has ended, or of which nothing answers.
  manyhost.janitor.on       "true" when the release has one (root context)
  manyhost.janitor.name     name of its objects (root context)
  manyhost.janitor.labels   labels of its pods: not those of the groups' pods, which others select (root context)
  manyhost.janitor.sets     names of the LeaderWorkerSets, the one that answers first, as JSON (root context)
  manyhost.janitor.pods     names of all pods that they can have, as JSON (root context)
*/}}

{{- define "manyhost.janitor.on" -}}
{{- if and .Values.janitor.enabled (eq .Values.mode "serve") }}true{{ end -}}
{{- end }}

{{- /* A CronJob has 52 characters, 11 less than what it makes. */}}
{{- define "manyhost.janitor.name" -}}
{{ .Release.Name | trunc 44 | trimSuffix "-" }}-janitor
{{- end }}

{{- define "manyhost.janitor.labels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}-janitor
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "manyhost.janitor.sets" -}}
{{- $names := list }}
{{- range $role := include "manyhost.roleNames" . | splitList "," }}
{{- $names = append $names (include "manyhost.setName" (dict "Release" $.Release "role" $role)) }}
{{- end }}
{{- toJson $names }}
{{- end }}

{{- define "manyhost.janitor.pods" -}}
{{- $names := list }}
{{- range $role := include "manyhost.roleNames" . | splitList "," }}
{{- $set := include "manyhost.setName" (dict "Release" $.Release "role" $role) }}
{{- $sizes := include "manyhost.sizes" (dict "Values" $.Values "role" $role) | fromJson }}
{{- $groups := int $.Values.vllm.replicaCount }}
{{- if eq $role "prefill" }}
{{- $groups = int $.Values.roles.prefill.groups }}
{{- else if $.Values.autoscaling.enabled }}
{{- $groups = int $.Values.autoscaling.maxReplicas }}
{{- end }}
{{- range $group := until $groups }}
{{- $names = append $names (printf "%s-%d" $set $group) }}
{{- range $member := untilStep 1 (int $sizes.hosts) 1 }}
{{- $names = append $names (printf "%s-%d-%d" $set $group $member) }}
{{- end }}
{{- end }}
{{- end }}
{{- toJson $names }}
{{- end }}
