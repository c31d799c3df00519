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

{{/* Where the certificate comes from decides the Secret's name: one of cert-manager's is not the chart's to delete. */}}
{{- define "finetune-operator.tlsSecret" -}}
{{- $suffix := .Values.tls.certManager.enabled | ternary "certificate" "tls" -}}
{{ .Values.tls.existingSecret | default (printf "%s-%s" (include "finetune-operator.name" .) $suffix) }}
{{- end -}}

{{/*
The certificate that the chart makes, as a Secret's data: the one that the cluster has, or a new one. Training pods trust
the authority that their attempt was started with, so an upgrade must not change it. Within one rendering it is made only
once, for the webhook's configuration must name the authority of the very certificate that is in the Secret.
*/}}
{{- define "finetune-operator.certificate" -}}
{{- if not (hasKey .Values.tls "made") -}}
{{- $name := include "finetune-operator.tlsSecret" . -}}
{{- $secret := lookup "v1" "Secret" .Release.Namespace $name -}}
{{- $data := dict -}}
{{- if $secret -}}
{{- $data = $secret.data -}}
{{- else -}}
{{- $host := include "finetune-operator.host" . -}}
{{- /* The authority signs this one certificate: its key is thrown away. */ -}}
{{- $ca := genCA (printf "%s CA" $name) 3650 -}}
{{- $certificate := genSignedCert $host nil (list $host) 3650 $ca -}}
{{- $data = dict "ca.crt" (b64enc $ca.Cert) "tls.crt" (b64enc $certificate.Cert) "tls.key" (b64enc $certificate.Key) -}}
{{- end -}}
{{- $_ := set .Values.tls "made" $data -}}
{{- end -}}
{{- toYaml .Values.tls.made -}}
{{- end -}}

{{/* The authority of the certificate, in base64, for the API server; empty where annotations have it put in. */}}
{{- define "finetune-operator.authority" -}}
{{- if .Values.tls.certManager.enabled -}}
{{- else if not .Values.tls.existingSecret -}}
{{- index (include "finetune-operator.certificate" . | fromYaml) "ca.crt" -}}
{{- else if .Values.webhook.caBundle -}}
{{- b64enc .Values.webhook.caBundle -}}
{{- else if lookup "v1" "Secret" .Release.Namespace .Values.tls.existingSecret -}}
{{- index (lookup "v1" "Secret" .Release.Namespace .Values.tls.existingSecret).data "ca.crt" -}}
{{- else if not .Values.webhook.annotations -}}
{{- $hint := "the authority of tls.existingSecret is not known here: there is no Secret %s in namespace %s, or Helm does not ask the cluster. Create it first, give webhook.caBundle or webhook.annotations, or set webhook.enabled=false (see docs/install.md)" -}}
{{- fail (printf $hint .Values.tls.existingSecret .Release.Namespace) -}}
{{- end -}}
{{- end -}}

{{/* Which of a repository's images: a digest is one for ever, so it wins over a tag. */}}
{{- define "finetune-operator.version" -}}
{{- $image := first . -}}
{{- if $image.digest -}}
@{{ $image.digest }}
{{- else -}}
:{{ $image.tag | default (last .).Chart.AppVersion }}
{{- end -}}
{{- end -}}

{{- define "finetune-operator.image" -}}
{{- $hint := "image.repository is required: where you pushed the operator's image (see docs/install.md)" -}}
{{ required $hint .Values.image.repository }}{{ include "finetune-operator.version" (list .Values.image .) }}
{{- end -}}

{{- define "finetune-operator.trainerImage" -}}
{{- $hint := "trainer.image.repository is required: where you pushed the trainer's image (see docs/install.md)" -}}
{{ required $hint .Values.trainer.image.repository }}{{ include "finetune-operator.version" (list .Values.trainer.image .) }}
{{- end -}}
