{{/*
GPUDirect-TCPX, the interconnect of A3 High: the daemon beside the engine.
Source: GoogleCloudPlatform/container-engine-accelerators, gpudirect-tcpx/nccl-test-latest.yaml, where it is an ordinary
container; as a native sidecar it starts before the engine and ends after it (gpudirect-tcpx/best-practice.md).
*/}}

{{- /* The daemon's source is not public. */}}
{{- define "manyhost.interconnect.tcpx.confined" -}}
{{- end }}

{{- define "manyhost.interconnect.tcpx.initContainers" -}}
{{- $settings := .Values.gpuPlatformSettings }}
- name: tcpx-daemon
  image: {{ $settings.rxdmImage | quote }}
  imagePullPolicy: {{ .Values.job.image.pullPolicy }}
  restartPolicy: Always
  command:
  - /tcpgpudmarxd/build/app/tcpgpudmarxd
  - --gpu_nic_preset
  - a3vm
  - --gpu_shmem_type
  - fd
  - --uds_path
  - /run/tcpx
  - --setup_param
  # The backslashes and quotes belong to the value.
  - '\"--verbose 128 2 0 \"'
  env:
  - {name: LD_LIBRARY_PATH, value: /usr/local/nvidia/lib64}
  {{- with $settings.daemonResources }}
  resources:
    {{- toYaml . | nindent 4 }}
  {{- end }}
  securityContext:
    allowPrivilegeEscalation: false
    capabilities:
      add: [NET_ADMIN]
  volumeMounts:
  {{- include "manyhost.fabric.daemonMounts" . | trim | nindent 2 }}
{{- end }}
