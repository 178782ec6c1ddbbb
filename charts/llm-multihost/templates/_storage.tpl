{{/*
Volumes that do not depend on the interconnect.
  manyhost.storage.volumes      pod volumes (root context)
  manyhost.storage.mounts       mounts of the engine, in the same order (root context)
  manyhost.storage.annotations  annotations of the Cloud Storage FUSE driver, a YAML map (root context)
  manyhost.storage.buckets      volumes.gcsMounts as JSON, none in mode nccl: it reads no weights, and its
                                service account has no access to them (root context)
  manyhost.storage.extra        volumes.extra as JSON, likewise (root context)
*/}}

{{- /* A group of several hosts has a control channel. Nothing renders its key: `manyhost deploy` makes the
Secret, or whoever installs with Helm alone (NOTES.txt). */}}
{{- define "manyhost.control.on" -}}
{{- if and (eq .Values.mode "serve") (gt (include "manyhost.sizes" . | fromJson).hosts 1.0) }}true{{ end }}
{{- end }}

{{- define "manyhost.control.name" -}}
{{ .Release.Name }}-control
{{- end }}

{{- define "manyhost.storage.buckets" -}}
{{ eq .Values.mode "nccl" | ternary (list) .Values.volumes.gcsMounts | toJson }}
{{- end }}

{{- define "manyhost.storage.extra" -}}
{{ eq .Values.mode "nccl" | ternary (list) .Values.volumes.extra | toJson }}
{{- end }}

{{- define "manyhost.storage.volumes" -}}
{{- $volumes := .Values.volumes -}}
- name: scripts
  configMap:
    name: {{ .Release.Name }}-scripts
{{- if include "manyhost.control.on" . }}
- name: control
  secret:
    secretName: {{ include "manyhost.control.name" . | quote }}
    optional: true
{{- end }}
- name: shm
  emptyDir:
    medium: Memory
    sizeLimit: {{ $volumes.shmSize | quote }}
- name: ssd
  {{- if $volumes.ssdHostPath }}
  hostPath:
    path: {{ $volumes.ssdHostPath | quote }}
    type: DirectoryOrCreate
  {{- else }}
  emptyDir: {}
  {{- end }}
{{- range $i, $mount := include "manyhost.storage.buckets" . | fromJsonArray }}
{{- $options := $volumes.gcsMountOptions }}
{{- with $mount.onlyDir }}
{{- $options = append $options (printf "only-dir=%s" .) }}
{{- end }}
{{- /* By number: bucket names may hold dots and underscores, volume names may not. */}}
- name: gcs-{{ $i }}
  csi:
    driver: gcsfuse.csi.storage.gke.io
    readOnly: {{ $mount.readOnly | default false }}
    volumeAttributes:
      bucketName: {{ $mount.bucketName | quote }}
      {{- with $options }}
      mountOptions: {{ join "," . | quote }}
      {{- end }}
      skipCSIBucketAccessCheck: "true"
      gcsfuseMetadataPrefetchOnMount: "true"
      {{- if $.Values.network.hostNetwork }}
      # Without it the driver would act as the node's service account.
      hostNetworkPodKSA: "true"
      {{- end }}
{{- end }}
{{- range include "manyhost.storage.extra" . | fromJsonArray }}
- name: extra-{{ .name }}
  {{- toYaml .volume | nindent 2 }}
{{- end }}
{{- range $volumes.hostMounts }}
- name: host-{{ .name }}
  hostPath:
    path: {{ .hostPath | quote }}
    type: Directory
{{- end }}
{{- end }}

{{- define "manyhost.storage.mounts" -}}
{{- $volumes := .Values.volumes -}}
- {name: scripts, mountPath: /opt/manyhost, readOnly: true}
{{- if include "manyhost.control.on" . }}
- {name: control, mountPath: /etc/manyhost, readOnly: true}
{{- end }}
- {name: shm, mountPath: /dev/shm}
- name: ssd
  mountPath: {{ $volumes.ssdMountPath | quote }}
{{- range $i, $mount := include "manyhost.storage.buckets" . | fromJsonArray }}
- name: gcs-{{ $i }}
  mountPath: {{ $mount.mountPath | default "/gcs" | quote }}
  readOnly: {{ $mount.readOnly | default false }}
{{- end }}
{{- range include "manyhost.storage.extra" . | fromJsonArray }}
- name: extra-{{ .name }}
  mountPath: {{ .mountPath | quote }}
  {{- with .subPath }}
  subPath: {{ . | quote }}
  {{- end }}
  readOnly: {{ ternary .readOnly true (hasKey . "readOnly") }}
{{- end }}
{{- range $volumes.hostMounts }}
- name: host-{{ .name }}
  mountPath: {{ .mountPath | quote }}
  readOnly: {{ ternary .readOnly true (hasKey . "readOnly") }}
{{- end }}
{{- end }}

{{- /* "0" lifts the limits of the FUSE sidecar, whose defaults are too small for weights. */}}
{{- define "manyhost.storage.annotations" -}}
{{- if include "manyhost.storage.buckets" . | fromJsonArray -}}
gke-gcsfuse/volumes: "true"
gke-gcsfuse/cpu-limit: "0"
gke-gcsfuse/memory-limit: "0"
gke-gcsfuse/ephemeral-storage-limit: "0"
{{- end -}}
{{- end }}
