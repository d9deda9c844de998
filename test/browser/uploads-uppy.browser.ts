import { testUploads } from './uploads.ts'

testUploads('uppy')
