{{/*
What every chart of this folder uses; `make generate` copies it into each chart as templates/_common.tpl, so that
`helm install charts/<any>` works from a clone (docs/adr/0006-one-shape-for-every-place.md).
  manyhost.podLabels           labels that select the pods of the release (root context)
  manyhost.serviceAccountName  account of the pods (root context; reads serviceAccount)
  manyhost.strings             a map of strings, each line after a line end (takes the map)
  manyhost.amount              a count or a percentage (takes the value)
  manyhost.unprivileged        security context without privileges (takes the capabilities that are left)
  manyhost.user                user and group of a container (root context; reads security)
*/}}

{{- define "manyhost.podLabels" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name | quote }}
{{- end }}

{{- define "manyhost.serviceAccountName" -}}
{{- with .Values.serviceAccount -}}
{{ .name | default (ternary $.Release.Name "default" .create) }}
{{- end -}}
{{- end }}

{{- /* A count, or a percentage in quotes. */}}
{{- define "manyhost.amount" -}}
{{ if kindIs "string" . }}{{ quote . }}{{ else }}{{ int64 . }}{{ end }}
{{- end }}

{{- /* Not toYaml: it gives nothing at all for a map in which one string holds a control character. */}}
{{- define "manyhost.strings" -}}
{{- range $key, $value := . }}
{{ quote $key }}: {{ quote $value }}
{{- end }}
{{- end }}

{{- /* Takes the capabilities that are left, separated by commas. */}}
{{- define "manyhost.unprivileged" -}}
allowPrivilegeEscalation: false
capabilities:
  drop: [ALL]
  {{- with . }}
  add: [{{ . }}]
  {{- end }}
seccompProfile:
  type: RuntimeDefault
{{- end }}

{{- define "manyhost.user" -}}
{{- with .Values.security }}
{{- if not (kindIs "invalid" .runAsUser) }}
runAsUser: {{ int64 .runAsUser }}
runAsNonRoot: {{ ne (int64 .runAsUser) 0 }}
{{- end }}
{{- if not (kindIs "invalid" .runAsGroup) }}
runAsGroup: {{ int64 .runAsGroup }}
{{- end }}
{{- end }}
{{- end }}
