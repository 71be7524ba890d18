"""Networks, IPAM, endpoints, name records and published ports. Decides; never touches the kernel."""
