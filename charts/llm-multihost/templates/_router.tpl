{{/*
The router, which clients talk to while prefill and decode are apart (docs/adr/0009-a-router-outside-the-groups.md).
  manyhost.routerLabels     labels that select its pods (root context)
  manyhost.routerScripts    data of its ConfigMap (root context)
  manyhost.routerPodSpec    spec of its pods (root context)
  manyhost.routerContainer  their one container (root context)
*/}}

{{- define "manyhost.routerLabels" -}}
{{ include "manyhost.podLabels" . }}
app.kubernetes.io/component: router
{{- end }}

{{- define "manyhost.routerScripts" -}}
{{- include "manyhost.scripts" (dict "root" . "folder" "router/") }}
{{- end }}

{{- define "manyhost.routerPodSpec" -}}
{{- $values := .Values -}}
# Not the engine's service account, whose identity may read buckets; nothing here calls an API.
automountServiceAccountToken: false
enableServiceLinks: false
# 10 s in which new requests still come, what those in flight may take, and some to end.
terminationGracePeriodSeconds: {{ add $values.lifecycle.drainSeconds 30 }}
{{- with $values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- with $values.priorityClassName }}
priorityClassName: {{ . | quote }}
{{- end }}
{{- with $values.host.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- if $values.volumes.hostMounts }}
{{- /* The engine lies on the hosts, and its Python with it. */}}
{{- with $values.host.nodeSelector }}
nodeSelector:
  {{- include "manyhost.strings" . | nindent 2 }}
{{- end }}
{{- else if $values.host.nodeSelector }}
{{- /* Anywhere, but rather not on the hosts with GPUs: one host's loss then costs one of the two. */}}
affinity:
  nodeAffinity:
    preferredDuringSchedulingIgnoredDuringExecution:
    {{- range $key, $value := $values.host.nodeSelector }}
    - weight: 1
      preference:
        matchExpressions:
        - key: {{ quote $key }}
          operator: NotIn
          values: [{{ quote $value }}]
    {{- end }}
{{- end }}
topologySpreadConstraints:
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: DoNotSchedule
  nodeTaintsPolicy: Honor
  labelSelector:
    matchLabels:
      {{- include "manyhost.routerLabels" . | nindent 6 }}
  matchLabelKeys: [pod-template-hash]
containers:
{{ include "manyhost.routerContainer" . }}
volumes:
- name: router
  configMap:
    name: {{ .Release.Name }}-router
{{- range $values.volumes.hostMounts }}
- name: host-{{ .name }}
  hostPath:
    path: {{ .hostPath | quote }}
    type: Directory
{{- end }}
{{- end }}

{{- define "manyhost.routerContainer" -}}
{{- $values := .Values -}}
{{- $router := $values.roles.router -}}
{{- $port := int64 $values.vllm.service.ports.http -}}
{{- $env := dict
  "PORT" $port
  "DECODE" (printf "%s-decode-leaders:%d" .Release.Name $port)
  "PREFILL" (printf "%s-prefill-leaders:%d" .Release.Name $port)
  "STALL_SECONDS" (int64 $values.lifecycle.stallSeconds)
  "DRAIN_SECONDS" (int64 $values.lifecycle.drainSeconds)
  "MOST_REQUESTS" (int64 $router.maxRequests)
  "BODY_BYTES" (mul $router.maxBodyMiB 1048576) -}}
- name: router
  image: {{ $router.image | default (include "manyhost.image" .) | quote }}
  imagePullPolicy: {{ $values.job.image.pullPolicy }}
  command: [bash, /opt/manyhost/router.sh]
  env:
  - name: MANYHOST_ENGINE
    value: {{ join "\n" $values.vllm.command | replace "$" "$$" | quote }}
  {{- range $name, $value := $env }}
  - name: MANYHOST_ROUTER_{{ $name }}
    value: {{ $value | quote }}
  {{- end }}
  - name: MANYHOST_ROUTER_MEMORY_BYTES
    valueFrom:
      resourceFieldRef:
        containerName: router
        resource: limits.memory
  ports:
  - name: http
    containerPort: {{ $port }}
  startupProbe:
    httpGet: {path: /health, port: http}
    periodSeconds: 1
    timeoutSeconds: 5
    failureThreshold: 120
  # Ready means that a request would be answered: some decode leader is ready.
  readinessProbe:
    httpGet: {path: /ready, port: http}
    periodSeconds: 2
    timeoutSeconds: 5
    failureThreshold: 2
  livenessProbe:
    httpGet: {path: /health, port: http}
    periodSeconds: 10
    timeoutSeconds: 10
    failureThreshold: 6
  resources:
    {{- toYaml $router.resources | nindent 4 }}
  securityContext:
    {{- include "manyhost.unprivileged" "" | nindent 4 }}
    readOnlyRootFilesystem: true
    runAsUser: 65532
    runAsGroup: 65532
    runAsNonRoot: true
  volumeMounts:
  - {name: router, mountPath: /opt/manyhost, readOnly: true}
  {{- range $values.volumes.hostMounts }}
  - name: host-{{ .name }}
    mountPath: {{ .mountPath | quote }}
    readOnly: true
  {{- end }}
{{- end }}
