"""A Kubernetes control plane of the tests' own: etcd, API server, controllers, scheduler, and nodes played by KWOK."""
