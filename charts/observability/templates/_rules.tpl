{{/*
What stands in rules.yaml and dashboards/ between at signs.
  observability.fill     a text with all of it filled in; dict "root" (root context), "text"
  observability.rules    the groups of rules, as YAML (root context)
  observability.labels   labels of every object (root context)
*/}}

{{- define "observability.labels" -}}
{{ include "manyhost.podLabels" . }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
app.kubernetes.io/component: observability
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version }}
{{- end }}

{{- define "observability.fill" -}}
{{- $values := .root.Values }}
{{- $namespace := .root.Release.Namespace }}
{{- $release := required "release is needed: the release of llm-multihost to watch" $values.release }}
{{- $recipe := required "recipe is needed: that of the release, for example a3mega" $values.recipe }}
{{- /* Quoted as PromQL may be and as JSON needs no escape for. */}}
{{- $pods := printf "namespace='%s',manyhost_release='%s'" $namespace $release }}
{{- $about := printf "%s --release %s --namespace %s" $recipe $release $namespace }}
{{- $words := dict
  "release" $release
  "namespace" $namespace
  "key" (printf "%s/%s" $namespace $release | sha256sum | trunc 10)
  "pods" $pods
  "engines" (printf "%s,manyhost_role!='router'" $pods)
  "clients" (printf "%s,manyhost_role!='prefill'" $pods)
  "routers" (printf "%s,manyhost_role='router'" $pods)
  "hosts" (printf "%s(-prefill)?-[0-9]+(-[0-9]+)?" $release)
  "wanted" (add $values.groups $values.prefillGroups | toString)
  "startup" (int64 $values.startupSeconds | toString)
  "usdPerHour" ($values.usdPerHour | toString)
  "status" (printf "`manyhost status %s`" $about)
  "logs" (printf "`manyhost logs %s`" $about) }}
{{- $text := .text }}
{{- range $word, $value := $words }}
{{- $text = $text | replace (printf "@%s@" $word) $value }}
{{- end }}
{{- $text }}
{{- end }}

{{- define "observability.rules" -}}
{{- $all := .Files.Get "rules.yaml" | fromYaml }}
{{- $parts := gt (int64 .Values.prefillGroups) 0 | ternary (list "engine" "router") (list "engine") }}
groups:
{{- range $part := $parts }}
- name: {{ printf "%s.%s" $.Values.release $part }}
  rules:
  {{- range $rule := get $all $part }}
  - alert: {{ $rule.alert }}
    expr: {{ include "observability.fill" (dict "root" $ "text" $rule.expr) | quote }}
    for: {{ include "observability.fill" (dict "root" $ "text" $rule.for) }}
    labels:
      severity: {{ $rule.severity }}
      manyhost_release: {{ $.Values.release | quote }}
      {{- if eq $.Values.prometheus "operator" }}
      {{- /* Google's operator sets it, and refuses rules that do. */}}
      namespace: {{ $.Release.Namespace | quote }}
      {{- end }}
    annotations:
      summary: {{ include "observability.fill" (dict "root" $ "text" $rule.summary) | quote }}
      description: {{ include "observability.fill" (dict "root" $ "text" $rule.description) | quote }}
  {{- end }}
{{- end }}
{{- end }}
