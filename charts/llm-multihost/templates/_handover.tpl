{{/*
Handing KV caches from prefill to decode engines. Each of these takes the dict of _roles.tpl.
  manyhost.kvTransfer  value of --kv-transfer-config
  manyhost.nixlPort    port at which engines ask each other for their transfer agents; with data
                       parallelism the next ones as well
  manyhost.router      sidecar of a decode leader: it has the API's port, asks a prefill group first
                       and then the engine beside it
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

{{- define "manyhost.router" -}}
{{- $values := .Values -}}
{{- $port := int64 $values.vllm.service.ports.http -}}
- name: router
  image: {{ include "manyhost.image" . | quote }}
  imagePullPolicy: {{ $values.job.image.pullPolicy }}
  restartPolicy: Always
  command: [bash, /opt/manyhost/router.sh, serve]
  env:
  - name: MANYHOST_ENGINE
    value: {{ join "\n" $values.vllm.command | replace "$" "$$" | quote }}
  - name: MANYHOST_ROUTER_PORT
    value: {{ $port | quote }}
  - name: MANYHOST_ROUTER_ENGINE
    value: http://127.0.0.1:{{ add1 $port }}
  - name: MANYHOST_ROUTER_PREFILL
    value: http://{{ .Release.Name }}-prefill-svc:{{ $port }}
  # A prefill group that gives no token for this long has stalled: the engine reads the prompt itself.
  - name: MANYHOST_ROUTER_PREFILL_SECONDS
    value: {{ int64 $values.lifecycle.stallSeconds | quote }}
  ports:
  - name: http
    containerPort: {{ $port }}
  startupProbe:
    httpGet: {path: /manyhost/router, port: http}
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: 120
  readinessProbe:
    httpGet: {path: /manyhost/router, port: http}
    periodSeconds: 3
    timeoutSeconds: 5
    failureThreshold: 2
  # A restart of any container recreates the group: a busy router gets a minute to come back to itself.
  livenessProbe:
    httpGet: {path: /manyhost/router, port: http}
    periodSeconds: 10
    timeoutSeconds: 10
    failureThreshold: 6
  resources:
    {{- toYaml $values.roles.router.resources | nindent 4 }}
  securityContext:
    {{- include "manyhost.unprivileged" "" | nindent 4 }}
    readOnlyRootFilesystem: true
    {{- with include "manyhost.user" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
  volumeMounts:
  - {name: scripts, mountPath: /opt/manyhost, readOnly: true}
  {{- /* Where the engine lies on the hosts, so does its Python. */}}
  {{- range $values.volumes.hostMounts }}
  - name: host-{{ .name }}
    mountPath: {{ .mountPath | quote }}
    readOnly: true
  {{- end }}
{{- end }}
