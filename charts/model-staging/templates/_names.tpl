{{/*
  manyhost.staging.labels  labels of every object (root context)
  manyhost.staging.image   reference of the image (root context)
  manyhost.staging.files   the worker's files as a map from key to text, in YAML (root context)
*/}}

{{- define "manyhost.staging.labels" -}}
{{ include "manyhost.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/component: staging
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "manyhost.staging.image" -}}
{{- with .Values.image -}}
{{- if .digest }}{{ .repository }}@{{ .digest }}
{{- else }}{{ .repository }}:{{ required "image.tag or image.digest is needed" .tag }}{{ end }}
{{- end }}
{{- end }}

{{- /* A key of a ConfigMap holds no slash: the Job gives each file its path again. */}}
{{- define "manyhost.staging.files" -}}
{{- range $path, $text := .Files.Glob "worker/**.py" }}
{{ trimPrefix "worker/" $path | replace "/" "." }}: |
  {{- printf "%s" $text | nindent 2 }}
{{- end }}
{{- end }}
