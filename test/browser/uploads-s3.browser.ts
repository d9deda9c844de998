import { testUploads } from './uploads.ts'

testUploads('s3')
