{{/*
The pod of a group.
  manyhost.pod      pod template; dict "root" (dict of _roles.tpl), "member" (leader or worker),
                    "annotations" and "spec" (the two texts below: rendered once for both)
  manyhost.podAnnotations  annotations of the pods (root context)
  manyhost.podSpec  spec of the pods (root context)
  manyhost.launcher  data of the ConfigMap that the pods mount (root context)
  manyhost.scripts   files of one folder of the launcher, as a YAML map
*/}}

{{- define "manyhost.pod" -}}
metadata:
  labels:
    {{- include "manyhost.podLabels" .root | nindent 4 }}
    app.kubernetes.io/component: {{ .member }}
    role: {{ .member }}
    {{- with .root.role }}
    manyhost.dev/role: {{ . }}
    {{- end }}
    {{- with .root.Values.podLabels }}
    {{- include "manyhost.strings" . | nindent 4 }}
    {{- end }}
  annotations:
    {{- .annotations | nindent 4 }}
spec:
  {{- .spec | nindent 2 }}
{{- end }}

{{- /* No chart version among labels and annotations: it would restart every group at an upgrade of
the chart that changes nothing for the engine. */}}
{{- define "manyhost.podAnnotations" -}}
{{- $sizes := include "manyhost.sizes" . | fromJson }}
{{- $network := .Values.network }}
{{- $networks := include "manyhost.networks" . | fromJsonArray }}
{{- $set := dict
  "kubectl.kubernetes.io/default-container" "vllm"
  "manyhost.dev/scripts-checksum" (include "manyhost.launcher" . | sha256sum) }}
{{- /* Pods of one host with no fabric have nothing to send over the GPU NICs. */}}
{{- $fabric := include "manyhost.fabric.on" . }}
{{- $crosses := or $fabric (gt (int64 $sizes.hosts) 1) }}
{{- if and $networks $crosses (not (and $fabric .Values.gpuPlatformSettings.deviceClaim)) }}
{{- $_ := set $set "networking.gke.io/default-interface" "eth0" }}
{{- if not $network.hostNetwork }}
{{- $interfaces := list }}
{{- range $i, $name := $networks }}
{{- $interfaces = append $interfaces (dict "interfaceName" (printf "eth%d" $i) "network" $name) }}
{{- end }}
{{- $_ := set $set "networking.gke.io/interfaces" (toJson $interfaces) }}
{{- end }}
{{- end }}
{{- with $topology := .Values.queueTopology }}
{{- range $kind := list "required" "preferred" }}
{{- with get $topology $kind }}
{{- $_ := set $set (printf "kueue.x-k8s.io/podset-%s-topology" $kind) . }}
{{- /* Leader and workers are pod sets of their own; Kueue places those of one name together. */}}
{{- if gt (int64 $sizes.hosts) 1 }}
{{- $_ := set $set "kueue.x-k8s.io/podset-group-name" "group" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}
{{- $own := merge $set
  (include "manyhost.fabric.annotations" . | fromYaml)
  (include "manyhost.storage.annotations" . | fromYaml) }}
{{- range $key, $_ := .Values.podAnnotations }}
{{- $_ := unset $own $key }}
{{- end }}
{{- toYaml $own }}
{{- include "manyhost.strings" .Values.podAnnotations }}
{{- end }}

{{- /* Files of the launcher as a YAML map: those beside launch.sh, and the folders of what this release
has on. A running pod keeps the launcher it started, so a change of one of them restarts the groups. */}}
{{- define "manyhost.launcher" -}}
{{- $folders := list "" (printf "%s/" (.Values.network.interconnect | default "none")) }}
{{- if eq .Values.mode "nccl" }}
{{- $folders = append $folders "nccl/" }}
{{- end }}
{{- range $folder := $folders }}
{{- include "manyhost.scripts" (dict "root" $ "folder" $folder) }}
{{- end }}
{{- end }}

{{- /* Takes "root" and "folder", a folder of the launcher with its slash. */}}
{{- define "manyhost.scripts" -}}
{{- range $path, $text := .root.Files.Glob (printf "launcher/%s*" .folder) }}
{{ base $path }}: |
  {{- printf "%s" $text | nindent 2 }}
{{- end }}
{{- end }}

{{- define "manyhost.podSpec" -}}
{{- $values := .Values -}}
serviceAccountName: {{ include "manyhost.serviceAccountName" . | quote }}
# Nothing in the pod calls the Kubernetes API.
automountServiceAccountToken: false
# A Service called "vllm" would otherwise set VLLM_PORT, which the engine reads.
enableServiceLinks: false
{{- /* A measurement has no requests to finish. */}}
terminationGracePeriodSeconds: {{ eq $values.mode "nccl" | ternary 5 (add $values.lifecycle.drainSeconds 30) }}
{{- with $values.imagePullSecrets }}
imagePullSecrets:
{{- range . }}
- name: {{ . | quote }}
{{- end }}
{{- end }}
{{- range $key := list "priorityClassName" "runtimeClassName" "schedulerName" }}
{{- with get $values $key }}
{{ $key }}: {{ . | quote }}
{{- end }}
{{- end }}
{{- if $values.network.hostNetwork }}
hostNetwork: true
dnsPolicy: ClusterFirstWithHostNet
{{- end }}
{{- $owned := not (kindIs "invalid" $values.security.fsGroup) }}
{{- $confined := include "manyhost.fabric.confined" . }}
{{- if or $owned $confined }}
securityContext:
  {{- if $owned }}
  fsGroup: {{ int64 $values.security.fsGroup }}
  {{- end }}
  {{- if $confined }}
  seccompProfile:
    type: RuntimeDefault
  {{- end }}
{{- end }}
{{- with $values.host.nodeSelector }}
nodeSelector:
  {{- include "manyhost.strings" . | nindent 2 }}
{{- end }}
{{- with $values.host.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with include "manyhost.placement" . }}
{{- . }}
{{- end }}
{{- with include "manyhost.fabric.claims" . | trim }}
resourceClaims:
{{ . }}
{{- end }}
{{- with include "manyhost.fabric.initContainers" . | trim }}
initContainers:
{{ . }}
{{- end }}
containers:
{{ include "manyhost.container" . }}
volumes:
{{ include "manyhost.storage.volumes" . }}
{{- with include "manyhost.fabric.volumes" . | trim }}
{{ . }}
{{- end }}
{{- end }}

{{- /* matchLabelKeys narrows the selectors to the pod's own group: the index of a group is known
only when the pod is made. Kubernetes 1.29 and 1.30 drop it from podAffinity and then prefer
hosts near any group of the release. */}}
{{- define "manyhost.placement" -}}
{{- $values := .Values }}
{{- $affinity := dict }}
{{- with $values.targetNodes }}
{{- $hosts := dict "key" "kubernetes.io/hostname" "operator" "In" "values" . }}
{{- $terms := dict "nodeSelectorTerms" (list (dict "matchExpressions" (list $hosts))) }}
{{- $_ := set $affinity "nodeAffinity" (dict "requiredDuringSchedulingIgnoredDuringExecution" $terms) }}
{{- end }}
{{- with $values.host.topologyKeys }}
{{- $near := list }}
{{- range $i, $key := . }}
{{- $pods := dict "matchLabels" (include "manyhost.podLabels" $ | fromYaml) }}
{{- $term := dict "topologyKey" $key "labelSelector" $pods "matchLabelKeys" (list "leaderworkerset.sigs.k8s.io/group-index") }}
{{- $near = append $near (dict "weight" (add1 $i) "podAffinityTerm" $term) }}
{{- end }}
{{- $_ := set $affinity "podAffinity" (dict "preferredDuringSchedulingIgnoredDuringExecution" $near) }}
{{- /* An NVLink domain ends where the nearest topology does. */}}
{{- if and (include "manyhost.fabric.on" $) $values.gpuPlatformSettings.computeDomain }}
{{- $_ := set $affinity.podAffinity "requiredDuringSchedulingIgnoredDuringExecution" (list (last $near).podAffinityTerm) }}
{{- end }}
{{- end }}
{{- with mergeOverwrite $affinity $values.affinity }}
affinity:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- /* Hosts with GPUs are filled by one member each; hosts without are not, so say it. A spread
constraint and no anti-affinity: it passes over pods that are ending, so an old group cannot hold
up the new one, and a group larger than the set of hosts still starts. */}}
{{- if or (not $values.host.gpus) $values.topologySpreadConstraints }}
topologySpreadConstraints:
{{- if not $values.host.gpus }}
- maxSkew: 1
  topologyKey: kubernetes.io/hostname
  whenUnsatisfiable: DoNotSchedule
  nodeTaintsPolicy: Honor
  labelSelector:
    matchLabels:
      {{- include "manyhost.podLabels" . | nindent 6 }}
  matchLabelKeys: [leaderworkerset.sigs.k8s.io/group-index]
{{- end }}
{{- with $values.topologySpreadConstraints }}
{{ toYaml . }}
{{- end }}
{{- end }}
{{- end }}
