"""What each job's report says, as the parts of compress.report.parts: one file a job."""
