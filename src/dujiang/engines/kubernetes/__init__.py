"""The Kubernetes engine: each attempt a group of Pods, pinned to the nodes that the platform chose."""
