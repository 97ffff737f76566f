"""What a person looks at: tables and pictures of a run and of a comparison."""
