{{/*
The interconnect "none": nothing beside the engine. Every interconnect <name> defines these
templates, each called with the root context; the pod template includes them by name.
  manyhost.interconnect.<name>.annotations     pod annotations, a YAML map
  manyhost.interconnect.<name>.env             environment of the engine, a YAML map
  manyhost.interconnect.<name>.profile         file that the launch script sources, or nothing
  manyhost.interconnect.<name>.initContainers  YAML list
  manyhost.interconnect.<name>.volumes         YAML list
  manyhost.interconnect.<name>.mounts          volume mounts of the engine, a YAML list
  manyhost.interconnect.<name>.hostDevices     "true" when the engine opens devices of the host,
                                               which under hostNetwork takes a privileged container
*/}}

{{- define "manyhost.interconnect.none.annotations" }}{{ end }}
{{- define "manyhost.interconnect.none.env" }}{{ end }}
{{- define "manyhost.interconnect.none.profile" }}{{ end }}
{{- define "manyhost.interconnect.none.initContainers" }}{{ end }}
{{- define "manyhost.interconnect.none.volumes" }}{{ end }}
{{- define "manyhost.interconnect.none.mounts" }}{{ end }}
{{- define "manyhost.interconnect.none.hostDevices" }}{{ end }}
