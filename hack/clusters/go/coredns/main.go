// CoreDNS with the few plugins that a development cluster's DNS needs. The stock program compiles the SDKs of
// several clouds, which takes minutes; this one is otherwise the same server, configured by the same Corefile.
package main

import (
	"github.com/coredns/coredns/core/dnsserver"
	"github.com/coredns/coredns/coremain"

	_ "github.com/coredns/coredns/plugin/bind"
	_ "github.com/coredns/coredns/plugin/errors"
	_ "github.com/coredns/coredns/plugin/kubernetes"
	_ "github.com/coredns/coredns/plugin/ready"
)

func main() {
	// The order of plugins in the chain; it must follow CoreDNS' own plugin.cfg.
	dnsserver.Directives = []string{"bind", "ready", "errors", "kubernetes"}
	coremain.Run()
}
