{{/*
The interconnect as the pods meet it. What it is made of is in gpuPlatformSettings, which a recipe's values bring from
values/interconnects/<name>.yaml; with network.interconnect "none" or empty nothing of it is used. Each takes the root context.
  manyhost.fabric.on              "true" when the pods use an interconnect
  manyhost.fabric.libraries       folder of the NCCL plugin as the engine sees it
  manyhost.fabric.annotations     pod annotations, a YAML map
  manyhost.fabric.env             environment of the engine, a YAML map
  manyhost.fabric.profile         file that the launcher sources, or nothing
  manyhost.fabric.capabilities    Linux capabilities of the engine, separated by commas
  manyhost.fabric.claims          device claims of the pod, a YAML list
  manyhost.fabric.confined        "true" when what the containers beside the engine need of their host is known
  manyhost.fabric.initContainers  YAML list
  manyhost.fabric.volumes         YAML list
  manyhost.fabric.mounts          volume mounts of the engine, a YAML list
  manyhost.fabric.daemonMounts    volume mounts of the fabric's daemon, a YAML list
A fabric with a daemon beside the engine (rxdmImage) defines manyhost.interconnect.<name>.initContainers, and
manyhost.interconnect.<name>.confined.
*/}}

{{- define "manyhost.fabric.on" -}}
{{- if not (has .Values.network.interconnect (list "" "none")) }}true{{ end -}}
{{- end }}

{{- /* A plugin from an image has a folder of its own. */}}
{{- define "manyhost.fabric.libraries" -}}
{{ ternary .Values.gpuPlatformSettings.libraries "/usr/local/nccl-plugin/lib64" .Values.gpuPlatformSettings.useHostPlugin }}
{{- end }}

{{- /* The device injector reads the container's name from this key. */}}
{{- define "manyhost.fabric.annotations" -}}
{{- $settings := .Values.gpuPlatformSettings }}
{{- if and (include "manyhost.fabric.on" .) $settings.rxdmImage $settings.devices }}
devices.gke.io/container.{{ .Values.network.interconnect }}-daemon: |
  {{- range $i := until (int .Values.host.gpus) }}
  - path: /dev/nvidia{{ $i }}
  {{- end }}
  {{- range $settings.devices }}
  - path: {{ . }}
  {{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.fabric.env" -}}
{{- if include "manyhost.fabric.on" . }}
{{- $libraries := include "manyhost.fabric.libraries" . }}
{{- with .Values.gpuPlatformSettings }}
{{- if .libraries }}
LD_LIBRARY_PATH: {{ list $libraries .libraries | uniq | join ":" | quote }}
{{- end }}
{{- range .env }}
{{ quote .name }}: {{ .value | replace "{libraries}" $libraries | quote }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.fabric.profile" -}}
{{- if include "manyhost.fabric.on" . -}}
{{ .Values.gpuPlatformSettings.profile | replace "{libraries}" (include "manyhost.fabric.libraries" .) }}
{{- end -}}
{{- end }}

{{- define "manyhost.fabric.capabilities" -}}
{{- if include "manyhost.fabric.on" . }}{{ join ", " .Values.gpuPlatformSettings.capabilities }}{{ end -}}
{{- end }}

{{- define "manyhost.fabric.claims" -}}
{{- $settings := .Values.gpuPlatformSettings }}
{{- if include "manyhost.fabric.on" . }}
{{- if $settings.computeDomain }}
- name: compute-domain
  resourceClaimTemplateName: {{ .Release.Name }}-compute-domain
{{- end }}
{{- if $settings.deviceClaim }}
- name: rdma
  resourceClaimTemplateName: {{ .Release.Name }}-rdma
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.fabric.confined" -}}
{{- if and (include "manyhost.fabric.on" .) .Values.gpuPlatformSettings.rxdmImage -}}
{{ include (printf "manyhost.interconnect.%s.confined" .Values.network.interconnect) . }}
{{- else -}}
true
{{- end -}}
{{- end }}

{{- define "manyhost.fabric.initContainers" -}}
{{- if and (include "manyhost.fabric.on" .) .Values.gpuPlatformSettings.rxdmImage }}
{{- include (printf "manyhost.interconnect.%s.initContainers" .Values.network.interconnect) . }}
{{- end }}
{{- end }}

{{- define "manyhost.fabric.volumes" -}}
{{- $settings := .Values.gpuPlatformSettings }}
{{- if include "manyhost.fabric.on" . }}
{{- range $settings.folders }}
- name: {{ .name | quote }}
  hostPath:
    path: {{ .hostPath | quote }}
{{- end }}
{{- if not $settings.useHostPlugin }}
- {name: nccl-plugin, emptyDir: {}}
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.fabric.mounts" -}}
{{- $settings := .Values.gpuPlatformSettings }}
{{- if include "manyhost.fabric.on" . }}
{{- range $settings.folders }}
{{- if .enginePath }}
- name: {{ .name | quote }}
  mountPath: {{ .enginePath | quote }}
  {{- if .readOnly }}
  readOnly: true
  {{- end }}
{{- end }}
{{- end }}
{{- if not $settings.useHostPlugin }}
- {name: nccl-plugin, mountPath: /usr/local/nccl-plugin, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.fabric.daemonMounts" -}}
{{- range .Values.gpuPlatformSettings.folders }}
{{- if .daemonPath }}
- name: {{ .name | quote }}
  mountPath: {{ .daemonPath | quote }}
{{- end }}
{{- end }}
{{- end }}
