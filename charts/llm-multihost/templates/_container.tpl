{{/*
The engine container, the same for leader and worker: what differs between them the launcher reads
from MANYHOST_RANK.
  manyhost.container  one item of spec.containers (root context)
  manyhost.member     what makes a pod a member of its group, in the launcher's words; the controller
                      puts its LWS_* variables before a container's own, so Kubernetes expands them
Kubernetes expands $(NAME) in args and env; a doubled dollar sign stands for itself, so every
value of a user goes through `replace "$" "$$"`.
*/}}

{{- define "manyhost.container" -}}
{{- $values := .Values -}}
{{- $privileged := include "manyhost.privileged" . -}}
- name: vllm
  image: {{ include "manyhost.image" . | quote }}
  imagePullPolicy: {{ $values.job.image.pullPolicy }}
  command: [bash, /opt/manyhost/launch.sh]
  {{- if eq $values.mode "serve" }}
  args:
  {{- include "manyhost.engineArgs" . | nindent 2 }}
  {{- end }}
  env:
  {{- include "manyhost.engineEnv" . | nindent 2 }}
  {{- with include "manyhost.envFrom" $values | trim }}
  envFrom:
  {{- . | nindent 2 }}
  {{- end }}
  ports:
  - name: http
    containerPort: {{ int64 $values.vllm.service.ports.http }}
  {{- if eq $values.mode "serve" }}
  {{- include "manyhost.probes" $values.lifecycle | nindent 2 }}
  {{- end }}
  resources:
    {{- include "manyhost.resources" . | nindent 4 }}
  securityContext:
    {{- if $privileged }}
    privileged: true
    {{- else }}
    {{- include "manyhost.unprivileged" (include "manyhost.fabric.capabilities" .) | nindent 4 }}
    {{- end }}
    {{- with include "manyhost.user" . | trim }}
    {{- . | nindent 4 }}
    {{- end }}
  volumeMounts:
  {{- include "manyhost.storage.mounts" . | nindent 2 }}
  {{- with include "manyhost.fabric.mounts" . | trim }}
  {{- . | nindent 2 }}
  {{- end }}
{{- end }}

{{- /* Under hostNetwork the device plugin does not open the interconnect's devices to the engine. */}}
{{- define "manyhost.privileged" -}}
{{- if or .Values.security.privileged (and .Values.network.hostNetwork (include "manyhost.fabric.on" .) .Values.gpuPlatformSettings.devices) -}}
true
{{- end -}}
{{- end }}

{{- /* Flags of the engine, one item each: no shell reads them. */}}
{{- define "manyhost.engineArgs" -}}
{{- $model := .Values.model -}}
{{- $sizes := include "manyhost.sizes" . | fromJson -}}
- --tensor-parallel-size
- {{ int64 $sizes.tp | quote }}
- --pipeline-parallel-size
- {{ int64 $sizes.pp | quote }}
{{- if gt (int64 $sizes.dp) 1 }}
- --data-parallel-size
- {{ int64 $sizes.dp | quote }}
{{- end }}
- --served-model-name
- {{ $model.servedName | default $model.name | replace "$" "$$" | quote }}
{{- with .role }}
- --kv-transfer-config
- {{ include "manyhost.kvTransfer" $ | quote }}
{{- end }}
{{- if eq .Values.vllm.engine "sglang" }}
{{ include "manyhost.sglang.args" . }}
{{- end }}
{{- range $name, $value := include "manyhost.serverArgs" . | fromJson }}
{{- if kindIs "bool" $value }}
- --{{ ternary "" "no-" $value }}{{ $name }}
{{- else if not (kindIs "invalid" $value) }}
{{- $text := include "manyhost.argValue" $value | replace "$" "$$" }}
{{- if hasPrefix "-" $text }}
- {{ printf "--%s=%s" $name $text | quote }}
{{- else }}
- --{{ $name }}
- {{ $text | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* A string as it stands, anything else as compact JSON. Helm reads numbers as floats, and only
JSON prints a large whole number with all its digits. */}}
{{- define "manyhost.argValue" -}}
{{- if kindIs "string" . }}{{ . }}{{ else }}{{ toRawJson . }}{{ end -}}
{{- end }}

{{- define "manyhost.member" -}}
- name: MANYHOST_RANK
  value: $(LWS_WORKER_INDEX)
- name: MANYHOST_SIZE
  value: $(LWS_GROUP_SIZE)
- name: MANYHOST_LEADER
  value: $(LWS_LEADER_ADDRESS)
- name: MANYHOST_ADDRESS
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
- name: MANYHOST_GENERATION
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['leaderworkerset.sigs.k8s.io/template-revision-hash']
- name: MANYHOST_GROUP
  valueFrom:
    fieldRef:
      fieldPath: metadata.labels['leaderworkerset.sigs.k8s.io/group-key']
{{- end }}

{{- define "manyhost.engineEnv" -}}
{{- $values := .Values }}
{{- $model := $values.model }}
{{- $lifecycle := $values.lifecycle }}
{{- $network := $values.network }}
{{- $ssd := $values.volumes.ssdMountPath | trimSuffix "/" }}
{{- $env := include "manyhost.fabric.env" . | fromYaml }}
{{- $_ := set $env "MANYHOST_ENGINE" (join "\n" $values.vllm.command) }}
{{- $_ := set $env "MANYHOST_EXECUTOR" $values.vllm.executor }}
{{- $_ := set $env "MANYHOST_MODEL" ($model.path | default $model.name) }}
{{- $_ := set $env "MANYHOST_MODEL_PATH" $model.path }}
{{- $_ := set $env "MANYHOST_STAGED" ($model.staged | default "") }}
{{- $_ := set $env "MANYHOST_GPUS_PER_HOST" (int64 $values.host.gpus | toString) }}
{{- $_ := set $env "MANYHOST_PORT" (int64 $values.vllm.service.ports.http | toString) }}
{{- $_ := set $env "MANYHOST_MASTER_PORT" "29501" }}
{{- $_ := set $env "MANYHOST_RAY_PORT" "6379" }}
{{- $_ := set $env "MANYHOST_INTERFACE" $network.socketInterface }}
{{- $_ := set $env "MANYHOST_PROFILE" (include "manyhost.fabric.profile" .) }}
{{- $_ := set $env "MANYHOST_PEER_WAIT_SECONDS" (int64 $lifecycle.peerWaitSeconds | toString) }}
{{- $_ := set $env "MANYHOST_STARTUP_SECONDS" (int64 $lifecycle.startupSeconds | toString) }}
{{- $_ := set $env "MANYHOST_STALL_SECONDS" (int64 $lifecycle.stallSeconds | toString) }}
{{- $_ := set $env "MANYHOST_DRAIN_SECONDS" (int64 $lifecycle.drainSeconds | toString) }}
{{- $_ := set $env "MANYHOST_START_ATTEMPTS" (int64 $lifecycle.startAttempts | toString) }}
{{- if include "manyhost.control.on" . }}
{{- $_ := set $env "MANYHOST_CONTROL_KEY_FILE" "/etc/manyhost/key" }}
{{- end }}
{{- if eq $values.mode "nccl" }}
{{- $_ := set $env "MANYHOST_STEP" "nccl" }}
{{- end }}
{{- range $network.ncclSettings }}
{{- $_ := set $env (printf "MANYHOST_SET_%s" .name) .value }}
{{- end }}
{{- $_ := set $env "GLOO_SOCKET_IFNAME" $network.socketInterface }}
{{- $_ := set $env "HF_HOME" (printf "%s/huggingface" $ssd) }}
{{- if $model.path }}
{{- $_ := set $env "HF_HUB_OFFLINE" "1" }}
{{- end }}
{{- /* What is compiled outlives the container where the folder is the host's. FlashInfer appends .cache/flashinfer. */}}
{{- if eq $values.vllm.engine "sglang" }}
{{- range $name, $value := include "manyhost.sglang.env" . | fromYaml }}
{{- $_ := set $env $name $value }}
{{- end }}
{{- else }}
{{- $_ := set $env "VLLM_CACHE_ROOT" (printf "%s/cache/vllm" $ssd) }}
{{- $_ := set $env "VLLM_NO_USAGE_STATS" "1" }}
{{- end }}
{{- $_ := set $env "TRITON_CACHE_DIR" (printf "%s/cache/triton" $ssd) }}
{{- $_ := set $env "FLASHINFER_WORKSPACE_BASE" (printf "%s/cache" $ssd) }}
{{- if not (kindIs "invalid" $values.security.runAsUser) }}
{{- /* A user id without an entry in the image's passwd has no name, at which torch before 2.13 ends, and no home. */}}
{{- $_ := set $env "USER" "engine" }}
{{- $_ := set $env "HOME" (printf "%s/home" $ssd) }}
{{- end }}
{{- if .role }}
{{- $_ := set $env "VLLM_NIXL_SIDE_CHANNEL_PORT" (include "manyhost.nixlPort" .) }}
{{- $_ := set $env "UCX_NET_DEVICES" $network.socketInterface }}
{{- range $values.roles.handover.env }}
{{- $_ := set $env .name .value }}
{{- end }}
{{- end }}
{{- range $values.vllm.env }}
{{- $_ := set $env .name .value }}
{{- end -}}
{{ include "manyhost.member" . }}
{{- if .role }}
- name: VLLM_NIXL_SIDE_CHANNEL_HOST
  valueFrom:
    fieldRef:
      fieldPath: status.podIP
{{- end }}
{{- with $values.huggingface }}
{{- if .secretName }}
- name: HF_TOKEN
  valueFrom:
    secretKeyRef:
      name: {{ .secretName | quote }}
      key: {{ .secretData.token | quote }}
      optional: true
{{- end }}
{{- end }}
{{- range $values.vllm.envFrom }}
{{- with .name }}
{{- $_ := unset $env . }}
{{- end }}
{{- if .name }}
- name: {{ .name | quote }}
  valueFrom:
    {{ ternary "secretKeyRef" "configMapKeyRef" (hasKey . "secret") }}:
      name: {{ .secret | default .configMap | quote }}
      key: {{ .key | default .name | quote }}
{{- end }}
{{- end }}
{{- range $name, $value := $env }}
- name: {{ quote $name }}
  value: {{ $value | replace "$" "$$" | quote }}
{{- end }}
{{- end }}

{{- /* Ask the script, which knows the role, the phase and the engine's own token counters. */}}
{{- define "manyhost.probes" -}}
startupProbe:
  exec:
    command: [bash, /opt/manyhost/probe.sh, startup]
  periodSeconds: 5
  timeoutSeconds: 5
  # The budget of all start attempts, rounded up to whole periods.
  failureThreshold: {{ div (add (mul .startupSeconds .startAttempts) 4) 5 }}
readinessProbe:
  exec:
    command: [bash, /opt/manyhost/probe.sh, ready]
  # The launcher has waited long enough before it refuses (7 s for a silent host): what comes on top here
  # keeps a lost host below 10 s. A probe that is slow to answer says nothing.
  periodSeconds: 2
  timeoutSeconds: 10
  failureThreshold: 1
livenessProbe:
  exec:
    command: [bash, /opt/manyhost/probe.sh, live]
  periodSeconds: 10
  timeoutSeconds: 10
  failureThreshold: 3
{{- end }}

{{- /* Takes .Values. Whole Secrets and ConfigMaps; single keys are among the variables. */}}
{{- define "manyhost.envFrom" -}}
{{- range .vllm.envFrom }}
{{- if not .name }}
- {{ ternary "secretRef" "configMapRef" (hasKey . "secret") }}:
    name: {{ .secret | default .configMap | quote }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Extended resources need request and limit to be equal. */}}
{{- define "manyhost.resources" -}}
{{- $host := .Values.host }}
{{- $devices := dict }}
{{- if $host.gpus }}
{{- $devices = dict "nvidia.com/gpu" (int64 $host.gpus) }}
{{- end }}
{{- if include "manyhost.fabric.on" . }}
{{- $devices = merge $devices .Values.gpuPlatformSettings.extendedResources }}
{{- end }}
{{- $resources := dict "requests" (merge dict $devices $host.resources.requests) "limits" (merge dict $devices $host.resources.limits) }}
{{- with include "manyhost.fabric.claims" . | fromYamlArray }}
{{- $claims := list }}
{{- range . }}
{{- $claims = append $claims (dict "name" .name) }}
{{- end }}
{{- $_ := set $resources "claims" $claims }}
{{- end }}
{{- toYaml $resources }}
{{- end }}
