// etcd for the control plane of the end-to-end tests. A module of its own:
// its dependency pins differ from those of Kubernetes.
package main

import (
	"os"

	"go.etcd.io/etcd/server/v3/etcdmain"
)

func main() { etcdmain.Main(os.Args) }
