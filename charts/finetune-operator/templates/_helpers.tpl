{{/* The name of everything: the release's, with the chart's where the release's does not have it. */}}
{{- define "finetune-operator.name" -}}
{{- if contains .Chart.Name .Release.Name -}}
{{- .Release.Name | trunc 63 | trimSuffix "-" -}}
{{- else -}}
{{- printf "%s-%s" .Release.Name .Chart.Name | trunc 63 | trimSuffix "-" -}}
{{- end -}}
{{- end -}}

{{/* What the Service and the Deployment find their pod by. These must not change: a Deployment's are immutable. */}}
{{- define "finetune-operator.selector" -}}
app.kubernetes.io/name: {{ .Chart.Name }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "finetune-operator.labels" -}}
{{ include "finetune-operator.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{/* The host under which training pods reach the report endpoint; its certificate is for this name. */}}
{{- define "finetune-operator.host" -}}
{{ include "finetune-operator.name" . }}.{{ .Release.Namespace }}.svc
{{- end -}}

{{- define "finetune-operator.tlsSecret" -}}
{{ .Values.tls.existingSecret | default (printf "%s-tls" (include "finetune-operator.name" .)) }}
{{- end -}}

{{- define "finetune-operator.image" -}}
{{- $hint := "image.repository is required: where you pushed the operator's image (see docs/install.md)" -}}
{{ required $hint .Values.image.repository }}:{{ .Values.image.tag | default .Chart.AppVersion }}
{{- end -}}

{{- define "finetune-operator.trainerImage" -}}
{{- $hint := "trainer.image.repository is required: where you pushed the trainer's image (see docs/install.md)" -}}
{{ required $hint .Values.trainer.image.repository }}:{{ .Values.trainer.image.tag | default .Chart.AppVersion }}
{{- end -}}
