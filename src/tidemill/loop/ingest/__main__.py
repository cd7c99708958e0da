from tidemill.loop.ingest.process import main

main()
