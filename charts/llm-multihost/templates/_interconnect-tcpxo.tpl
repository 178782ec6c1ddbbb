{{/*
GPUDirect-TCPXO, the interconnect of A3 Mega: the daemon beside the engine, and the plugin from an image.
Sources, all in GoogleCloudPlatform/container-engine-accelerators, folder gpudirect-tcpxo: best-practice.md (sidecar,
startup probe), README.md (releases and their flags).
*/}}

{{- /* Release of the daemon as one number, 1000020 for v1.0.20. Its tags (v1.0.13_1, v1.0.09) are
no semantic versions. A tag without a version counts as new. */}}
{{- define "manyhost.interconnect.tcpxo.release" -}}
{{- $tag := .Values.gpuPlatformSettings.rxdmImage | splitList "/" | last -}}
{{- $version := regexFind ":v[0-9]+[.][0-9]+[.][0-9]+" $tag | trimPrefix ":v" -}}
{{- if $version -}}
{{- $part := splitList "." $version -}}
{{ add (mul 1000000 (index $part 0 | atoi)) (mul 1000 (index $part 1 | atoi)) (index $part 2 | atoi) }}
{{- else -}}
999000000
{{- end -}}
{{- end }}

{{- /* From here on the source of daemon and plugin is public (google/nccl-plugin-gpudirect-tcpxo). */}}
{{- define "manyhost.interconnect.tcpxo.confined" -}}
{{- if ge (include "manyhost.interconnect.tcpxo.release" . | int64) 1000018 }}true{{ end -}}
{{- end }}

{{- define "manyhost.interconnect.tcpxo.initContainers" -}}
{{- $settings := .Values.gpuPlatformSettings }}
{{- $confined := include "manyhost.interconnect.tcpxo.confined" . }}
{{- if not $settings.useHostPlugin }}
- name: tcpxo-install
  image: {{ $settings.ncclPluginImage | quote }}
  imagePullPolicy: {{ .Values.job.image.pullPolicy }}
  command: [/bin/sh, /opt/manyhost/tcpxo-install.sh]
  {{- with $settings.daemonResources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    allowPrivilegeEscalation: false
    {{- if $confined }}
    capabilities:
      drop: [ALL]
    {{- end }}
  volumeMounts:
  - {name: scripts, mountPath: /opt/manyhost, readOnly: true}
  - {name: nccl-plugin, mountPath: /usr/local/nccl-plugin}
{{- end }}
{{- $release := include "manyhost.interconnect.tcpxo.release" . | int64 }}
- name: tcpxo-daemon
  image: {{ $settings.rxdmImage | quote }}
  imagePullPolicy: {{ .Values.job.image.pullPolicy }}
  restartPolicy: Always
  command: [/bin/sh, /opt/manyhost/tcpxo-daemon.sh]
  args:
  - --num_hops=2
  {{- if lt $release 1000020 }}
  # Found by the daemon itself from v1.0.20 on.
  - --num_nics=8
  {{- end }}
  {{- if lt $release 1000018 }}
  # Without effect from v1.0.18 on.
  - --uid=
  - --alsologtostderr
  {{- end }}
  env:
  - {name: LD_LIBRARY_PATH, value: /usr/local/nvidia/lib64}
  # The name must not contain an underscore.
  - {name: HEALTH_CHECK_LOG_FILE, value: /run/health-check}
  {{- with $settings.daemonResources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    allowPrivilegeEscalation: false
    capabilities:
      {{- if $confined }}
      drop: [ALL]
      {{- end }}
      add: [NET_ADMIN, NET_BIND_SERVICE]
  # Its start takes about 30 s. A failed probe restarts the daemon, and with it the whole group:
  # two minutes leave room.
  startupProbe:
    exec:
      command: [cat, /run/health-check]
    initialDelaySeconds: 1
    periodSeconds: 5
    timeoutSeconds: 1
    failureThreshold: 24
  volumeMounts:
  - {name: scripts, mountPath: /opt/manyhost, readOnly: true}
  {{- include "manyhost.fabric.daemonMounts" . | trim | nindent 2 }}
{{- end }}
