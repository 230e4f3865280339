"""A model of what a kubelet does when a pod ends, over real processes."""
