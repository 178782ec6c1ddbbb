{{/*
What the schema cannot say. Each check prints one line for each problem, written
"key: what is wrong; what to do"; manyhost.validate stops the render with all of them.
*/}}

{{- define "manyhost.validate" -}}
{{- $problems := list
  (include "manyhost.check.refused" .)
  (include "manyhost.check.release" .)
  (include "manyhost.check.image" .)
  (include "manyhost.check.executor" .)
  (include "manyhost.check.sglang" .)
  (include "manyhost.check.group" .)
  (include "manyhost.check.networks" .)
  (include "manyhost.check.serverArgs" .)
  (include "manyhost.check.variables" .)
  (include "manyhost.check.port" .)
  (include "manyhost.check.storage" .)
  (include "manyhost.check.roles" .)
  (include "manyhost.check.gateway" .)
  (include "manyhost.check.networkPolicy" .)
  (include "manyhost.check.metadata" .)
  (include "manyhost.check.scaling" .)
  (include "manyhost.check.extraObjects" .)
  (include "manyhost.check.written" .) | join "" | trim -}}
{{- if $problems }}{{ fail $problems }}{{ end -}}
{{- end }}

{{- /* Keys of the published recipe that never did what they promised. */}}
{{- define "manyhost.check.refused" -}}
{{- if hasKey .Values "targetPlatform" }}
targetPlatform: this key is gone, it never had an effect; remove it (host.environment says where the pods run)
{{- end }}
{{- if hasKey .Values.gpuPlatformSettings "ncclBuildType" }}
gpuPlatformSettings.ncclBuildType: this key is gone, plugins from v1.0.12 on do not know it; remove it (gpuPlatformSettings.ncclPluginImage picks the build)
{{- end }}
{{- if hasKey .Values.network "subnetworks[]" }}
network.subnetworks[]: this key is gone, its brackets made it a key that nothing read; write network.subnetworks with a list of names
{{- end }}
{{- end }}

{{- /* Pods are called <release>-<group>-<rank>, and their labels add a hash: the limit leaves room in 63.
Prefill groups add -prefill as well. */}}
{{- define "manyhost.check.release" -}}
{{- $name := .Release.Name }}
{{- $most := index .Chart.Annotations "manyhost.dev/name-limit" | int }}
{{- if include "manyhost.apart" . }}
{{- $most = sub $most (len "-prefill") | int }}
{{- end }}
{{- if or (gt (len $name) $most) (not (regexMatch "^[a-z]([a-z0-9-]*[a-z0-9])?$" $name)) }}
{{- $letters := regexReplaceAll "[^a-z0-9]+" (lower $name) "-" | trimAll "-" }}
{{- $valid := regexReplaceAll "^([0-9])" $letters "r-$1" | trunc $most | trimSuffix "-" | default "llm" }}
release name: {{ $name | quote }} is no name for pods (lower-case letters, digits and dashes, a letter first, at most {{ $most }} characters); call the release {{ $valid }}
{{- end }}
{{- end }}

{{- define "manyhost.check.image" -}}
{{- with .Values.job.image }}
{{- if not .repository }}
job.image.repository: no image is named; set it, for example to vllm/vllm-openai
{{- else if contains ":" (.repository | splitList "/" | last) }}
job.image.repository: {{ .repository }} ends with a tag; write it without, and set job.image.tag
{{- else if contains "://" .repository }}
job.image.repository: {{ .repository }} is a web address; write it without https://
{{- else if regexMatch "[A-Z]" (regexReplaceAll "^[^/]*[.:][^/]*/" .repository "") }}
job.image.repository: {{ .repository }} has upper case, which no registry takes; write {{ lower .repository }}
{{- else if not (contains "/" .repository) }}
job.image.repository: {{ .repository }} alone is docker.io/library/{{ .repository }}; write the whole name, such as vllm/{{ .repository }}
{{- end }}
{{- if and (not .digest) (regexMatch "^((latest|nightly|main|master|edge|dev)(-(x86_64|aarch64|amd64|arm64))?)?$" (.tag | default "")) }}
job.image.tag: {{ .tag | default "" | quote }} does not pin a version; set a tag such as v0.26.0, or job.image.digest
{{- end }}
{{- if and .digest (ne (len .digest) 71) }}
job.image.digest: {{ .digest }} is not a whole digest; write sha256: and 64 hexadecimal digits
{{- end }}
{{- end }}
{{- end }}

{{- /* engines.yaml says what each version can start several hosts with; of other versions nothing is known. */}}
{{- define "manyhost.check.executor" -}}
{{- $engines := .Files.Get "engines.yaml" | fromYaml }}
{{- $image := .Values.job.image }}
{{- $executor := .Values.vllm.executor }}
{{- $tag := $image.tag | default "" | trimPrefix "v" | printf "v%s" }}
{{- $version := hasKey $engines $tag | ternary $tag (regexFind "^v[0-9]+\\.[0-9]+\\.[0-9]+" $tag) }}
{{- if and (hasKey $engines $version) (not $image.digest) }}
{{- $engine := get $engines $version }}
{{- $stock := eq ($image.repository | default "") $engine.image }}
{{- if and (ne $engine.engine $.Values.vllm.engine) (or $stock (eq $engine.engine "vllm")) }}
job.image.tag: {{ $image.tag }} is a version of {{ $engine.engine }}, and vllm.engine is {{ $.Values.vllm.engine }}; {{ if $engine.recipe }}add the values of a recipe for it (-f recipes/{{ $engine.recipe }}/values.yaml), or {{ end }}set one of them
{{- else if ne $engine.engine "vllm" }}
{{- else if not (has $executor $engine.executors) }}
vllm.executor: vLLM {{ $version }} starts several hosts with {{ join " or " $engine.executors }}, not with {{ $executor }}; {{ if $engine.recipe }}add the values of a recipe for it (-f recipes/{{ $engine.recipe }}/values.yaml){{ else }}set it to {{ first $engine.executors }}{{ end }}
{{- else if and $stock (not (has $executor $engine.imageExecutors)) }}
vllm.executor: {{ $executor }} is not in the image {{ $image.repository }}:{{ $image.tag }}; set it to {{ join " or " $engine.imageExecutors }}, or name an image that has it (job.image.repository)
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.check.group" -}}
{{- if and (eq .Values.mode "nccl") (not .Values.host.gpus) }}
mode: nccl measures between GPUs, but host.gpus is 0; set mode to serve
{{- end }}
{{- $host := include "manyhost.ranksPerHost" . | int64 }}
{{- range $role := include "manyhost.roleNames" . | splitList "," }}
{{- $size := include "manyhost.sizes" (dict "Values" $.Values "role" $role) | fromJson }}
{{- $ranks := int64 $size.ranks }}
{{- $tp := int64 $size.tp }}
{{- $model := empty $role | ternary "model" (printf "roles.%s" $role) }}
{{- $sizes := printf "tp_size %d x pp_size %d x dp_size %d = %d" $tp (int64 $size.pp) (int64 $size.dp) $ranks }}
{{- if mod $ranks $host }}
{{ $model }}: {{ $sizes }} GPUs do not fill whole hosts of {{ $host }}; choose sizes whose product is a multiple of host.gpus
{{- else if and (mod $host $tp) (mod $tp $host) }}
{{ $model }}.tp_size: {{ $tp }} GPUs for a layer cross the border of a host ({{ $host }} GPUs); choose a divisor or a multiple of host.gpus
{{- end }}
{{- with $.Values.job.gpus }}
{{- if ne (int64 .) $ranks }}
job.gpus: {{ int64 . }} is not the size of a group, {{ $sizes }}; set it to {{ $ranks }} or leave it out
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.check.networks" -}}
{{- $host := .Values.host }}
{{- $network := .Values.network }}
{{- include "manyhost.check.fabric" . }}
{{- with $network.subnetworks }}
{{- if not $host.networks }}
network.subnetworks: {{ join ", " . }} for hosts of which nothing is known; add the values of a recipe (-f recipes/ENVIRONMENT/RECIPE/values.yaml), or name the networks in host.networks
{{- else if ne (len .) (len $host.networks) }}
network.subnetworks: {{ len . }} names ({{ join ", " . }}) for the {{ len $host.networks }} NICs of {{ $host.environment | default "a host" }} ({{ join ", " $host.networks }}); give one name for each NIC, in that order
{{- else if ne (len .) (len (uniq .)) }}
network.subnetworks: a name stands twice in {{ join ", " . }}; give each NIC its own network
{{- end }}
{{- end }}
{{- if include "manyhost.fabric.on" . }}
{{- $name := $network.interconnect }}
{{- $settings := .Values.gpuPlatformSettings }}
{{- if not $host.gpus }}
network.interconnect: {{ $name }} needs GPUs, but host.gpus is 0; set network.interconnect to none
{{- end }}
{{- if not (or $settings.profile $settings.folders $settings.extendedResources $settings.deviceClaim $settings.rxdmImage) }}
network.interconnect: nothing here says what {{ $name }} is made of; add the values of a recipe that has it (-f recipes/ENVIRONMENT/RECIPE/values.yaml)
{{- else if not (or $network.hostNetwork $host.networks $settings.extendedResources $settings.deviceClaim) }}
host.networks: empty, but {{ $name }} needs a network for each GPU NIC; name them in the order of the NICs
{{- end }}
{{- if and (not $settings.useHostPlugin) (not (and $settings.ncclPluginImage (.Files.Glob (printf "launcher/%s/*-install.sh" $name)))) }}
gpuPlatformSettings.useHostPlugin: {{ $name }} has no plugin image that this chart installs; set it to true
{{- end }}
{{- if and $settings.computeDomain (or (gt (int64 .Values.vllm.replicaCount) 1) .Values.autoscaling.enabled) }}
vllm.replicaCount: the hosts of a release share one NVLink domain; keep one group, and install another release for the next
{{- end }}
{{- end }}
{{- end }}

{{- /* What was not said: hosts with a fabric, or images of one, and no interconnect. */}}
{{- define "manyhost.check.fabric" -}}
{{- $host := .Values.host }}
{{- $settings := .Values.gpuPlatformSettings }}
{{- if not .Values.network.interconnect }}
{{- $most := 0 }}
{{- range $role := include "manyhost.roleNames" . | splitList "," }}
{{- $size := include "manyhost.sizes" (dict "Values" $.Values "role" $role) | fromJson }}
{{- $most = max $most (int64 $size.hosts) }}
{{- end }}
{{- $accelerator := index $host.nodeSelector "cloud.google.com/gke-accelerator" | default "" }}
{{- $known := $host.environment | default (join ", " $host.networks) | default $accelerator }}
{{- if and $known $host.gpus (gt $most 1) }}
network.interconnect: empty, so the {{ $most }} hosts of a group ({{ $known }}) would talk over plain TCP; add the values of a recipe (-f recipes/ENVIRONMENT/RECIPE/values.yaml), or set it to none if TCP is meant
{{- else if or $settings.rxdmImage $settings.ncclPluginImage (not $settings.useHostPlugin) }}
network.interconnect: empty, so nothing would use gpuPlatformSettings; add the values of a recipe (-f recipes/ENVIRONMENT/RECIPE/values.yaml), or set it to none if TCP is meant
{{- end }}
{{- end }}
{{- end }}

{{- /* Flags that are set elsewhere, each with the place that sets it. */}}
{{- define "manyhost.check.serverArgs" -}}
{{- $file := .Files.Get "reserved-flags.yaml" | fromYaml }}
{{- $own := get $file .Values.vllm.engine | default dict }}
{{- $reserved := dict "setBy" (merge dict ($own.setBy | default dict) $file.setBy) "refused" (merge dict ($own.refused | default dict) $file.refused) }}
{{- $places := dict "vllm.serverArgs" .Values.vllm.serverArgs "roles.prefill.serverArgs" .Values.roles.prefill.serverArgs "roles.decode.serverArgs" .Values.roles.decode.serverArgs }}
{{- range $place, $arguments := $places }}
{{- range $name, $_ := $arguments }}
{{- $flag := splitList "." $name | first }}
{{- $plain := $flag | replace "_" "-" | lower | trimPrefix "no-" }}
{{- if hasKey $reserved.setBy $plain }}
{{ $place }}.{{ $name }}: reserved; {{ get $reserved.setBy $plain | empty | ternary "the launcher sets it" (get $reserved.setBy $plain | printf "use %s") }}
{{- else if hasKey $reserved.refused $plain }}
{{ $place }}.{{ $name }}: reserved; {{ get $reserved.refused $plain }}
{{- else if contains "_" $flag }}
{{ $place }}.{{ $name }}: flags are written with dashes here, so that none stands twice; write {{ $flag | replace "_" "-" }}
{{- end }}
{{- end }}
{{- end }}
{{- end }}

{{- /* Takes the name of a variable. */}}
{{- define "manyhost.check.isLaunchers" -}}
{{- if or (hasPrefix "MANYHOST_" .) (hasPrefix "LWS_" .) }}true{{ end -}}
{{- end }}

{{- define "manyhost.check.variables" -}}
{{- $seen := dict }}
{{- range .Values.vllm.env }}
{{- if hasKey $seen .name }}
vllm.env: {{ .name }} stands twice; keep one
{{- end }}
{{- if include "manyhost.check.isLaunchers" .name }}
vllm.env: {{ .name }} belongs to the launcher; remove it
{{- else if has .name (list "HF_TOKEN" "HUGGING_FACE_HUB_TOKEN") }}
vllm.env: {{ .name }} would put a secret into the manifest; use huggingface.secretName
{{- end }}
{{- $_ := set $seen .name true }}
{{- end }}
{{- range $i, $entry := .Values.vllm.envFrom }}
{{- if eq (hasKey $entry "secret") (hasKey $entry "configMap") }}
vllm.envFrom[{{ $i }}]: names {{ hasKey $entry "secret" | ternary "both a secret and a configMap" "neither a secret nor a configMap" }}; name one of them
{{- end }}
{{- if and $entry.key (not $entry.name) }}
vllm.envFrom[{{ $i }}]: has a key but no name for the variable; give it a name, or leave the key out
{{- end }}
{{- with $entry.name }}
{{- if hasKey $seen . }}
vllm.envFrom[{{ $i }}]: {{ . }} stands twice; keep one
{{- end }}
{{- if include "manyhost.check.isLaunchers" . }}
vllm.envFrom[{{ $i }}]: {{ . }} belongs to the launcher; remove it
{{- else if and (eq . "HF_TOKEN") $.Values.huggingface.secretName }}
vllm.envFrom[{{ $i }}]: HF_TOKEN comes from huggingface.secretName; remove one of them
{{- end }}
{{- $_ := set $seen . true }}
{{- end }}
{{- end }}
{{- $seen = dict }}
{{- range .Values.network.ncclSettings }}
{{- if hasKey $seen .name }}
network.ncclSettings: {{ .name }} stands twice; keep one
{{- end }}
{{- $_ := set $seen .name true }}
{{- end }}
{{- end }}

{{- /* Ports of the launcher: Ray, the meeting point of the ranks, the beacon of the leader. */}}
{{- define "manyhost.check.port" -}}
{{- $port := int64 .Values.vllm.service.ports.http }}
{{- if has (toString $port) (list "6379" "29501" "29511") }}
vllm.service.ports.http: {{ $port }} is a port of the launcher; choose another port
{{- end }}
{{- end }}

{{- define "manyhost.check.storage" -}}
{{- $volumes := .Values.volumes }}
{{- $taken := dict "/opt/manyhost" "the start scripts" "/dev/shm" "volumes.shmSize" }}
{{- $mounts := list (list "volumes.ssdMountPath" $volumes.ssdMountPath) }}
{{- range $i, $mount := $volumes.gcsMounts }}
{{- $key := printf "volumes.gcsMounts[%d]" $i }}
{{- $bucket := $mount.bucketName | default "" }}
{{- if not $bucket }}
{{ $key }}.bucketName: no bucket is named; set it, or leave the mount out
{{- else if not (regexMatch "^[a-z0-9][a-z0-9._-]{1,220}[a-z0-9]$" $bucket) }}
{{ $key }}.bucketName: {{ $bucket | quote }} is no bucket name; write it without gs:// and without a folder (onlyDir takes the folder)
{{- end }}
{{- $mounts = append $mounts (list (printf "%s.mountPath" $key) ($mount.mountPath | default "/gcs")) }}
{{- end }}
{{- $names := dict }}
{{- range $i, $mount := $volumes.extra }}
{{- if hasKey $names $mount.name }}
volumes.extra[{{ $i }}].name: {{ $mount.name }} stands twice; give each volume its own name
{{- end }}
{{- $_ := set $names $mount.name true }}
{{- $mounts = append $mounts (list (printf "volumes.extra[%d].mountPath" $i) $mount.mountPath) }}
{{- end }}
{{- $names = dict }}
{{- range $i, $mount := $volumes.hostMounts }}
{{- if hasKey $names $mount.name }}
volumes.hostMounts[{{ $i }}].name: {{ $mount.name }} stands twice; give each folder its own name
{{- end }}
{{- $_ := set $names $mount.name true }}
{{- $mounts = append $mounts (list (printf "volumes.hostMounts[%d].mountPath" $i) $mount.mountPath) }}
{{- end }}
{{- range $mounts }}
{{- $path := last . | clean }}
{{- if hasKey $taken $path }}
{{ first . }}: {{ $path }} is already the place of {{ get $taken $path }}; choose another folder
{{- end }}
{{- $_ := set $taken $path (first .) }}
{{- end }}
{{- range $volumes.gcsMountOptions }}
{{- $option := regexFind "^[^:=]+" . }}
{{- if has $option (list "app-name" "temp-dir" "foreground" "log-file" "log-format" "key-file" "token-url" "reuse-token-from-url") }}
volumes.gcsMountOptions: the CSI driver refuses {{ $option }}; remove it
{{- else if eq $option "only-dir" }}
volumes.gcsMountOptions: only-dir would hold for every bucket; use onlyDir of the mount
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.check.roles" -}}
{{- $values := .Values }}
{{- if include "manyhost.apart" . }}
{{- if include "manyhost.fabric.on" . }}
roles.prefill.groups: KV caches do not move over {{ $values.network.interconnect }}; set network.interconnect to none, or roles.prefill.groups to 0
{{- end }}
{{- if gt (int64 $values.model.pp_size) 1 }}
model.pp_size: KV caches are handed over to engines of one pipeline stage only; set it to 1, or roles.prefill.groups to 0
{{- end }}
{{- if ne $values.vllm.executor "mp" }}
vllm.executor: prefill and decode apart need mp; set it to mp, or roles.prefill.groups to 0
{{- end }}
{{- $places := dict "vllm.serverArgs" $values.vllm.serverArgs "roles.prefill.serverArgs" $values.roles.prefill.serverArgs "roles.decode.serverArgs" $values.roles.decode.serverArgs }}
{{- range $place, $arguments := $places }}
{{- range $name, $_ := $arguments }}
{{- $flag := splitList "." $name | first | replace "_" "-" | trimPrefix "no-" }}
{{- if has $flag (list "kv-transfer-config" "kv-offloading-size" "ssl-certfile" "ssl-keyfile") }}
{{ $place }}.{{ $name }}: cannot stand beside roles.prefill.groups, which sets the KV connector and puts a router of plain HTTP before the engines; remove one of them
{{- end }}
{{- end }}
{{- end }}
{{- range $place, $variables := dict "vllm.env" $values.vllm.env "vllm.envFrom" $values.vllm.envFrom }}
{{- range $variables }}
{{- if hasPrefix "VLLM_NIXL_SIDE_CHANNEL_" (.name | default "") }}
{{ $place }}: {{ .name }} belongs to the KV handover; remove it
{{- end }}
{{- end }}
{{- end }}
{{- if not (($values.roles.router.resources.limits | default dict).memory) }}
roles.router.resources.limits.memory: not set, but it is what bodies of requests share; set it, for example to 1Gi
{{- end }}
{{- if eq (int64 $values.vllm.service.ports.http | toString) (include "manyhost.nixlPort" .) }}
vllm.service.ports.http: {{ include "manyhost.nixlPort" . }} is the port of the KV handover; choose another port
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.check.gateway" -}}
{{- $values := .Values }}
{{- if include "manyhost.gateway.on" . }}
{{- if include "manyhost.apart" . }}
routing: inferencepool leads past the router to the decode engines, which would read all prompts themselves; set it to service, or roles.prefill.groups to 0
{{- end }}
{{- if not $values.gateway.name }}
gateway.name: empty, but routing is inferencepool; name the Gateway (`kubectl get gateways --all-namespaces` lists them), or set routing to service
{{- end }}
{{- if not $values.gateway.endpointPicker.name }}
gateway.endpointPicker.name: empty, but routing is inferencepool; name the Service of the endpoint picker in the namespace of the release, or set routing to service
{{- end }}
{{- if hasKey $values.vllm.serverArgs "ssl-certfile" }}
vllm.serverArgs.ssl-certfile: a Gateway speaks plain HTTP to an InferencePool; remove it and let the Gateway end TLS, or set routing to service
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.check.networkPolicy" -}}
{{- $policy := .Values.networkPolicy }}
{{- if and $policy.enabled $policy.allowedNamespaces }}
{{- $type := .Values.vllm.service.type }}
{{- if and (include "manyhost.gateway.on" .) .Values.gateway.gke }}
networkPolicy.allowedNamespaces: would shut out the load balancer of a GKE Gateway, which is in no namespace; empty it, or set routing to service
{{- else if ne $type "ClusterIP" }}
networkPolicy.allowedNamespaces: would shut out the clients of a {{ $type }}, which are in no namespace; empty it, or set vllm.service.type to ClusterIP
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.check.metadata" -}}
{{- range $key, $_ := .Values.podLabels }}
{{- if or (eq $key "role") (hasPrefix "app.kubernetes.io/" $key) (hasPrefix "leaderworkerset.sigs.k8s.io/" $key) }}
podLabels.{{ $key }}: the chart or the LeaderWorkerSet controller sets it; remove it
{{- end }}
{{- end }}
{{- range $key, $_ := .Values.podAnnotations }}
{{- range $prefix := list "kubectl.kubernetes.io/default-container" "manyhost.dev/" "gke-gcsfuse/volumes" "devices.gke.io/" "networking.gke.io/" "leaderworkerset.sigs.k8s.io/" }}
{{- if hasPrefix $prefix $key }}
podAnnotations.{{ $key }}: the chart or the LeaderWorkerSet controller sets it; remove it
{{- end }}
{{- end }}
{{- end }}
{{- range $kind := list "requests" "limits" }}
{{- if hasKey (get $.Values.host.resources $kind) "nvidia.com/gpu" }}
host.resources.{{ $kind }}: nvidia.com/gpu follows from host.gpus; remove it
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.check.scaling" -}}
{{- with .Values.queueTopology }}
{{- if and .required .preferred }}
queueTopology: names both a required and a preferred topology; keep one
{{- end }}
{{- if and (or .required .preferred) (not $.Values.queue) }}
queueTopology: has no effect without Kueue; set queue to the LocalQueue that admits the groups
{{- end }}
{{- end }}
{{- with .Values.podDisruptionBudget }}
{{- $groups := include "manyhost.leastGroups" $ | int64 }}
{{- $count := $.Values.autoscaling.enabled | ternary "autoscaling.minReplicas" "vllm.replicaCount" }}
{{- if and .enabled (eq $.Values.mode "serve") (or (le $groups 1) (ge (include "manyhost.stayingGroups" $ | int64) $groups)) }}
podDisruptionBudget.minAvailable: {{ .minAvailable }} of {{ $groups }} group(s) have to stay, so that drains would wait for ever; raise {{ $count }}, or set podDisruptionBudget.enabled to false
{{- end }}
{{- end }}
{{- $zero := list "0" "0%" "00%" }}
{{- if and (has (toString .Values.rollout.maxUnavailable) $zero) (has (toString .Values.rollout.maxSurge) $zero) }}
rollout: maxUnavailable and maxSurge are both 0, so an update could never start; raise one of them
{{- end }}
{{- with .Values.autoscaling }}
{{- if and .enabled (lt (int64 .maxReplicas) (int64 .minReplicas)) }}
autoscaling.maxReplicas: {{ int64 .maxReplicas }} is less than minReplicas {{ int64 .minReplicas }}; raise it
{{- end }}
{{- end }}
{{- end }}

{{- define "manyhost.check.extraObjects" -}}
{{- range $i, $object := .Values.extraObjects }}
{{- $metadata := kindIs "map" $object.metadata | ternary $object.metadata dict }}
{{- if not (and $object.apiVersion $object.kind $metadata.name) }}
extraObjects[{{ $i }}]: has no apiVersion, kind or metadata.name; write a whole object
{{- else if not (kindIs "map" ($metadata.labels | default dict)) }}
extraObjects[{{ $i }}].metadata.labels: is no map; write name and value of each label
{{- else if hasSuffix "List" (toString $object.kind) }}
extraObjects[{{ $i }}]: a list of objects cannot be labelled; write each of them by itself
{{- else if eq $object.kind "Secret" }}
extraObjects[{{ $i }}]: a Secret must not stand in values; create it with kubectl, or use an operator that does
{{- end }}
{{- end }}
{{- end }}

{{- /* toYaml gives nothing at all, and no error, for what holds a control character. */}}
{{- define "manyhost.check.written" -}}
{{- with .Values }}
{{- range $key, $value := dict "affinity" .affinity "extraObjects" .extraObjects "topologySpreadConstraints" .topologySpreadConstraints "volumes.extra" .volumes.extra }}
{{- if not (toYaml $value) }}
{{ $key }}: a text in it holds a control character; remove it
{{- end }}
{{- end }}
{{- end }}
{{- end }}
