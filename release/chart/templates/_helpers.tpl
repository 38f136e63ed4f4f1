{{- define "finetree.labels" -}}
{{ include "finetree.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "finetree.selector" -}}
app.kubernetes.io/name: finetree
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .component }}
{{- end }}

{{- /* Name of an object of a component: release and component. */}}
{{- define "finetree.name" -}}
{{ printf "%s-%s" .root.Release.Name .component | trunc 63 | trimSuffix "-" }}
{{- end }}

{{- define "finetree.metadata" -}}
name: {{ include "finetree.name" . }}
labels:
  {{- include "finetree.labels" . | nindent 2 }}
{{- end }}

{{- define "finetree.image" -}}
{{- if and .root.Values.ray.enabled (eq .component "trainer") }}
{{- /* Its driver and the nodes must be of one release of Ray, Python and the suite. */}}
{{- required "ray.image: name an image with Ray, the suite and a shell" .root.Values.ray.image }}
{{- else }}
{{- printf "%sfinetree/%s:%s" .root.Values.image.registry .component (.root.Values.image.tag | default .root.Chart.AppVersion) }}
{{- end }}
{{- end }}

{{- define "finetree.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "finetree.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- /* What the specs of all pods begin with. */}}
{{- define "finetree.pod" -}}
automountServiceAccountToken: false
enableServiceLinks: false
securityContext:
  {{- include "finetree.podSecurity" . | nindent 2 }}
{{- with .root.Values.image.pullSecrets }}
imagePullSecrets:
  {{- range . }}
  - name: {{ . }}
  {{- end }}
{{- end }}
{{- with .values.nodeSelector }}
nodeSelector:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .values.tolerations }}
tolerations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{- /* What the containers of all services begin with. */}}
{{- define "finetree.container" -}}
name: {{ .component }}
image: {{ include "finetree.image" . }}
imagePullPolicy: {{ .root.Values.image.pullPolicy }}
securityContext:
  {{- include "finetree.containerSecurity" . | nindent 2 }}
{{- end }}

{{- /* Flags of the three services. */}}
{{- define "finetree.args" -}}
- --address=0.0.0.0:{{ .port }}
- --metrics-address=0.0.0.0:9090
- --tls-cert=/etc/finetree/tls/tls.crt
- --tls-key=/etc/finetree/tls/tls.key
- --access-dir=/etc/finetree/access
- --page-token-key-file=/etc/finetree/page-tokens/key
{{- end }}

{{- define "finetree.extraArgs" -}}
{{- range .values.extraArgs }}
- {{ . | quote }}
{{- end }}
{{- end }}

{{- define "finetree.ports" -}}
- {name: grpc, containerPort: {{ .port }}, protocol: TCP}
- {name: metrics, containerPort: 9090, protocol: TCP}
{{- end }}

{{- /* Probes of the plain page, since the kubelet's own for gRPC know no TLS. */}}
{{- define "finetree.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: metrics}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: metrics}
  periodSeconds: 5
  timeoutSeconds: 5
  failureThreshold: 2
{{- end }}

{{- define "finetree.mounts" -}}
- {name: tls, mountPath: /etc/finetree/tls, readOnly: true}
- {name: access, mountPath: /etc/finetree/access, readOnly: true}
- {name: page-tokens, mountPath: /etc/finetree/page-tokens, readOnly: true}
- {name: tmp, mountPath: /tmp}
{{- end }}

{{- define "finetree.secretVolume" -}}
- name: {{ .name }}
  secret: {secretName: {{ .secret }}, defaultMode: 0440}
{{- end }}

{{- define "finetree.volumes" -}}
{{ include "finetree.secretVolume" (dict "name" "tls" "secret" .root.Values.secrets.tls) }}
{{ include "finetree.secretVolume" (dict "name" "access" "secret" .root.Values.secrets.access) }}
{{ include "finetree.secretVolume" (dict "name" "page-tokens" "secret" .root.Values.secrets.pageTokenKey) }}
{{- end }}

{{- define "finetree.claim" -}}
accessModes: [{{ .accessMode | default "ReadWriteOnce" }}]
{{- with .className }}
storageClassName: {{ . }}
{{- end }}
resources: {requests: {storage: {{ .size }}}}
{{- end }}

{{- /* Headless: a client's resolver sees every replica that is ready. */}}
{{- define "finetree.service" -}}
apiVersion: v1
kind: Service
metadata:
  {{- include "finetree.metadata" . | nindent 2 }}
spec:
  clusterIP: None
  selector:
    {{- include "finetree.selector" . | nindent 4 }}
  ports:
    - {name: grpc, port: {{ .port }}, targetPort: grpc, protocol: TCP, appProtocol: grpc}
    - {name: metrics, port: 9090, targetPort: metrics, protocol: TCP, appProtocol: http}
{{- end }}

{{- define "finetree.budget" -}}
apiVersion: policy/v1
kind: PodDisruptionBudget
metadata:
  {{- include "finetree.metadata" . | nindent 2 }}
spec:
  maxUnavailable: {{ .values.maxUnavailable }}
  unhealthyPodEvictionPolicy: AlwaysAllow
  selector:
    matchLabels:
      {{- include "finetree.selector" . | nindent 6 }}
{{- end }}
