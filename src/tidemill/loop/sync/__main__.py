from tidemill.loop.sync.shelf_sync import main

main()
