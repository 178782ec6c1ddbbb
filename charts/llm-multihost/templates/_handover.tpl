{{/*
Handing KV caches from prefill to decode engines. Each of these takes the dict of _roles.tpl.
  manyhost.kvTransfer  value of --kv-transfer-config
  manyhost.nixlPort    port at which engines ask each other for their transfer agents; with data
                       parallelism the next ones as well
*/}}

{{- define "manyhost.kvTransfer" -}}
{{- $config := dict "kv_connector" "NixlConnector" "kv_load_failure_policy" "recompute" }}
{{- $_ := set $config "kv_role" (ternary "kv_producer" "kv_consumer" (eq .role "prefill")) }}
{{- with .Values.roles.handover.buffer }}
{{- $_ := set $config "kv_buffer_device" . }}
{{- end }}
{{- toRawJson $config }}
{{- end }}

{{- define "manyhost.nixlPort" }}5600{{ end }}
