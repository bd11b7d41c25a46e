// pulumi-resource-kubernetes is upstream's Kubernetes provider, built from its Go module.
//
// Upstream embeds two files that its release process generates and its module does not hold.
// `schema.json` and `terraform-mapping.json` are their sources and are in the module; the
// toolchain writes them beside this file, compact and with the version set, before it builds.
package main

import (
	_ "embed"

	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/provider"
	"github.com/pulumi/pulumi-kubernetes/provider/v4/pkg/version"
)

//go:embed schema-embed.json
var schema []byte

//go:embed terraform-mapping-embed.json
var terraformMapping []byte

func main() {
	provider.Serve("kubernetes", version.Version, schema, terraformMapping)
}
