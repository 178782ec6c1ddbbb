{{/*
What differs where `vllm.engine` is sglang. Flags of parallelism and the name of the model are spelt as vLLM spells them,
which SGLang takes too; launcher/launch.sh has what starts a rank.
  manyhost.sglang.args   its own flags, one item each
  manyhost.sglang.env    its environment, as YAML (root context)
  manyhost.check.sglang  what it cannot do here, one line each (root context)
*/}}

{{- define "manyhost.sglang.args" -}}
{{- /* Without its counters nobody sees a group that stalls or has drained. */ -}}
- --enable-metrics
{{- end }}

{{- define "manyhost.sglang.env" -}}
MANYHOST_ENGINE_NAME: sglang
# What is compiled outlives the container where the folder is the host's.
SGLANG_CACHE_DIR: {{ printf "%s/cache/sglang" (.Values.volumes.ssdMountPath | trimSuffix "/") | quote }}
# /health would otherwise ask for a token each time: the launcher asks for tokens itself, and counters that move
# because somebody looks would say nothing.
SGLANG_ENABLE_HEALTH_ENDPOINT_GENERATION: "false"
{{- end }}

{{- define "manyhost.check.sglang" -}}
{{- if eq .Values.vllm.engine "sglang" }}
{{- if ne .Values.vllm.executor "mp" }}
vllm.executor: SGLang starts its ranks itself, not with {{ .Values.vllm.executor }}; set it to mp
{{- end }}
{{- if gt (int64 .Values.model.dp_size) 1 }}
model.dp_size: SGLang's data parallel ranks are not started here; set it to 1 and raise vllm.replicaCount
{{- end }}
{{- if include "manyhost.apart" . }}
roles.prefill.groups: prefill and decode apart are vLLM's here; set it to 0
{{- end }}
{{- if include "manyhost.gateway.on" . }}
routing: inferencepool asks an endpoint picker, which reads the counters of vLLM; set it to service
{{- end }}
{{- if and .Values.autoscaling.enabled (contains "vllm:" .Values.autoscaling.metric) }}
autoscaling.metric: {{ .Values.autoscaling.metric }} is a counter of vLLM; name one of SGLang, such as prometheus.googleapis.com|sglang:num_queue_reqs|gauge, or set autoscaling.enabled to false
{{- end }}
{{- range $place, $variables := dict "vllm.env" .Values.vllm.env "vllm.envFrom" .Values.vllm.envFrom }}
{{- range $variables }}
{{- if eq (.name | default "") "VLLM_API_KEY" }}
{{ $place }}: SGLang does not read VLLM_API_KEY, and would answer everybody; put a gateway with authentication before the Service
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
