"""What a finished run looks like to a person: plots. Needs the extra `report`."""
