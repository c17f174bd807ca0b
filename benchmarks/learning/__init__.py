"""What each part of the method adds to depth that is learned without a label, with the controls that decide."""
