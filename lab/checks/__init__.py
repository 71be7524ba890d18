"""Is a lab as it says it is? Each check looks at the kernel, the records and the event log, and lists what differs."""
