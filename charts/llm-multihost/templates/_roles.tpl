{{/*
What the groups of a release do. Without prefill groups there is one role and it has no name ("", each group
does both); with them there are two, "decode" (which keeps the release's name) and "prefill".
  manyhost.apart      "true" when prefill and decode are in groups of their own (root context)
  manyhost.roleNames  names of the roles, separated by commas (root context)
  manyhost.setName    name of a role's LeaderWorkerSet; dict of the root context's keys and "role"
  manyhost.sizes      {tp, pp, dp, ranks, hosts} of a role's groups, as JSON (the same dict)
  manyhost.serverArgs engine arguments of a role, as JSON (the same dict)
*/}}

{{- define "manyhost.apart" -}}
{{- if and (eq .Values.mode "serve") (gt (int64 .Values.roles.prefill.groups) 0) }}true{{ end -}}
{{- end }}

{{- define "manyhost.roleNames" -}}
{{- if include "manyhost.apart" . }}decode,prefill{{ end -}}
{{- end }}

{{- define "manyhost.setName" -}}
{{ .Release.Name }}{{ if eq .role "prefill" }}-prefill{{ end }}
{{- end }}

{{- define "manyhost.sizes" -}}
{{- $model := .Values.model }}
{{- $own := dict }}
{{- if .role }}
{{- $own = get .Values.roles .role }}
{{- end }}
{{- $tp := $own.tp_size | default $model.tp_size | int64 }}
{{- $dp := $own.dp_size | default $model.dp_size | int64 }}
{{- $ranks := mul $tp $model.pp_size $dp }}
{{- $host := include "manyhost.ranksPerHost" . | int64 }}
{{- /* A measurement is between two hosts, whatever the model. */}}
{{- $hosts := eq .Values.mode "nccl" | ternary 2 (div $ranks $host) }}
{{- dict "tp" $tp "pp" (int64 $model.pp_size) "dp" $dp "ranks" $ranks "hosts" $hosts | toJson }}
{{- end }}

{{- define "manyhost.serverArgs" -}}
{{- $args := deepCopy .Values.vllm.serverArgs }}
{{- if .role }}
{{- range $name, $value := (get .Values.roles .role).serverArgs }}
{{- $_ := set $args $name $value }}
{{- end }}
{{- end }}
{{- toRawJson $args }}
{{- end }}
