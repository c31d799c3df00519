module finetune.dev/cluster/gitops

go 1.25.0
